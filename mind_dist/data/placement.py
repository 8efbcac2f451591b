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

from mind_dist.data.partitioner import home_partition, key_hash
from mind_dist.records import PartTrained, Positions, Record

logger = logging.getLogger(__name__)

_SURELY_OTHERS = 100
"""After so many records elsewhere, in a topic that has not grown, another partitioner places them: seldom ask again."""
_ASK_OTHERS_EVERY_S = 10.0


class Placement:
    """Tells records that are to be applied from those that are done, or are for later.

    Args:
        num_partitions: Partitions that the run trains; 0 where they are not chosen by key.
        count_now: Asks how many the topic has now; called when a record is not where it should be.
        part_trained: Parts of partitions of which some records are trained already, by partition.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        num_partitions: int,
        count_now: Callable[[], int],
        part_trained: Mapping[int, Sequence[PartTrained]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_partitions = num_partitions
        self._count_now = count_now
        self._clock = clock
        self._grown = False
        self._num_elsewhere = 0
        self._ask_at_s = clock()
        self._done = {p: [part for part in parts if part.count != num_partitions] for p, parts in part_trained.items()}
        self._passed_from = {
            p: part.first for p, parts in part_trained.items() for part in parts if part.count == num_partitions
        }

    def is_done(self, record: Record) -> bool:
        """Tell whether a record has been applied before, among fewer partitions."""
        parts = self._done.get(record.partition)
        return bool(parts) and any(
            part.first <= record.offset < part.end and _is_home(record, part.count) for part in parts or ()
        )

    def is_for_later(self, record: Record, *, known: bool) -> bool:
        """Tell whether a record is to be applied when the run trains more partitions; note it if so.

        Args:
            record: The record.
            known: Whether its user has a history in its partition; then it is not for later, before the topic grows.
        """
        if not self._num_partitions or (known and not self._grown) or _is_home(record, self._num_partitions):
            return False
        if not self._has_grown():
            self._note_elsewhere(record)
            return False
        self._passed_from.setdefault(record.partition, record.offset)
        return True

    def part_trained(self, positions: Positions) -> dict[int, list[PartTrained]]:
        """Return what a checkpoint at these positions must tell beside them."""
        parts = {}
        for partition, position in positions.items():
            first = self._passed_from.get(partition, position)  # where the run will go on among more partitions
            parts[partition] = [part for part in self._done.get(partition, ()) if part.end > first]
            if first < position:
                parts[partition].append(PartTrained(self._num_partitions, first, position))
        return {partition: found for partition, found in parts.items() if found}

    def _has_grown(self) -> bool:
        if not self._grown and (self._num_elsewhere < _SURELY_OTHERS or self._clock() >= self._ask_at_s):
            self._ask_at_s = self._clock() + _ASK_OTHERS_EVERY_S
            self._grown = self._count_now() > self._num_partitions
        return self._grown

    def _note_elsewhere(self, record: Record) -> None:
        self._num_elsewhere += 1
        if self._num_elsewhere == 1:
            fields = {"partition": record.partition, "offset": record.offset}
            logger.warning(
                "a user's events are in another partition than murmur2 of the key gives: a producer uses another "
                "partitioner, or learnt too late of partitions that were added; such users may get two histories",
                extra={"fields": fields},
            )


def _is_home(record: Record, num_partitions: int) -> bool:
    return home_partition(key_hash(record.key or b""), num_partitions) == record.partition
