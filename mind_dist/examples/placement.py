"""Which records of a topic are to be applied while it grows, so that no user ever has two histories.

When partitions are added, most users' events go to other partitions from then on, old ones too: a user of partition 1 of 4
may be one of partition 2 of 5. Producers learn of it one after the other, so that in every partition records placed
among the old number lie beside records placed among the new one for a while. So what was placed among the old
number is trained first, everywhere, and the rest is passed over; then histories move to where their users' events
are now, and what was passed over is trained. Where that is, follows from a record's key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mind_dist.log.growth import Growth
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import FOREVER_MS, PartTrained, Positions, Record

logger = logging.getLogger(__name__)


class Placement:
    """Tells records that are to be applied from those that are done, or are for later.

    Args:
        num_partitions: Partitions that the run trains; 0 where they are not chosen by key.
        count_now: Asks how many the topic has now; called when a record is not where it should be.
        part_trained: Parts of partitions of which some records are trained already, by partition.
        until_ms: Records appended later are not to be trained among so few partitions: the topic had grown twice by then,
            and a user whom both numbers put into the same partition was in another one in between.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        num_partitions: int,
        count_now: Callable[[], int],
        part_trained: Mapping[int, Sequence[PartTrained]],
        *,
        until_ms: int = FOREVER_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_partitions = num_partitions
        self._growth = Growth(num_partitions, count_now, clock)
        self._grown = False
        self._until_ms = until_ms
        self._done = _parts_where(part_trained, lambda part: part.count != num_partitions)
        self._passed_before = _parts_where(part_trained, lambda part: part.count == num_partitions)
        self._passed_from: dict[int, int] = {}

    def is_done(self, record: Record) -> bool:
        """Tell whether a record has been applied before, among fewer partitions."""
        return any(
            part.first <= record.offset < part.end
            and record.appended_ms < part.until_ms
            and _is_home(record, part.count)
            for part in self._done.get(record.partition, ())
        )

    def is_for_later(self, record: Record, *, known: bool) -> bool:
        """Tell whether a record is to be applied when the run trains more partitions; note it if so.

        Args:
            record: The record.
            known: Whether its user has a history in its partition; then it is not for later, before the topic grows.
        """
        if record.appended_ms < self._until_ms:
            if not self._num_partitions or (known and not self._grown) or _is_home(record, self._num_partitions):
                return False
            self._grown = self._grown or self._growth.met_elsewhere() > self._num_partitions
            if not self._grown:
                self._note_elsewhere(record)
                return False
        self._passed_from.setdefault(record.partition, record.offset)
        return True

    def part_trained(self, positions: Positions) -> dict[int, list[PartTrained]]:
        """Return what a checkpoint at these positions must tell beside them."""
        parts = {}
        for partition, position in positions.items():
            passed = self._passed(partition, position)
            goes_on_at = min([position, *(part.first for part in passed)])  # among more partitions
            done = [part for part in self._done.get(partition, ()) if part.end > goes_on_at]
            parts[partition] = [*done, *passed]
        return {partition: found for partition, found in parts.items() if found}

    def _passed(self, partition: int, position: int) -> list[PartTrained]:
        """Return the parts up to a position in which records were passed over, from the first such record on."""
        before = self._passed_before.get(partition, [])
        if before and before[-1].until_ms == self._until_ms:
            return [*before[:-1], replace(before[-1], end=position)]
        first = before[-1].end if before else self._passed_from.get(partition, position)
        now = [PartTrained(self._num_partitions, first, position, self._until_ms)] if first < position else []
        return [*before, *now]

    def _note_elsewhere(self, record: Record) -> None:
        if self._growth.num_elsewhere == 1:
            fields = {"partition": record.partition, "offset": record.offset}
            logger.warning(
                "a user's events are in another partition than murmur2 of the key gives: a producer uses another "
                "partitioner, or learnt too late of partitions that were added; such users may get two histories",
                extra={"fields": fields},
            )


def _parts_where(
    part_trained: Mapping[int, Sequence[PartTrained]], wanted: Callable[[PartTrained], bool]
) -> dict[int, list[PartTrained]]:
    return {partition: [part for part in parts if wanted(part)] for partition, parts in part_trained.items()}


def _is_home(record: Record, num_partitions: int) -> bool:
    return home_partition(key_hash(record.key or b""), num_partitions) == record.partition
