"""One partition of an event log → its records one by one, up to an end, or as they come.

Each partition has a source of its own, polled only when its records are wanted: so at most one poll is held in memory,
and none of the client's own means to hold partitions back is needed. (kafka-python 3.0.12 may never deliver a
partition again that was paused.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from mind_dist.errors import PartitionStalled
from mind_dist.log.source import EventSource
from mind_dist.records import Record

_POLL_S = 0.2
"""How long one poll waits."""

_STOP_AFTER_S = 2.0
"""How long a reader that is to stop still waits: what a healthy broker needs for its next records, and more."""


class PartitionReader:
    """Reads one partition in order.

    Args:
        source: Owns this partition alone.
        partition: The partition.
        position: Where to go on; None for its oldest record.
        follow: Read on behind the present end.
        topic: The log's name, for errors.
        stall_after_s: How long a partition that has not ended may deliver nothing.
        should_stop: Asked while waiting; a reader that is to stop gives up early.
    """

    def __init__(
        self,
        source: EventSource,
        partition: int,
        position: int | None,
        *,
        follow: bool,
        topic: str,
        stall_after_s: float,
        should_stop: Callable[[], bool],
    ) -> None:
        self.source = source
        self.position = source.oldest_positions()[partition] if position is None else position
        self._partition = partition
        self._topic = topic
        self._stall_after_s = stall_after_s
        self._should_stop = should_stop
        self._end = None if follow else source.end_positions()[partition]
        self._records: deque[Record] = deque()
        source.seek({partition: self.position})

    def next(self) -> Record | None:
        """Return the next record; None at the end, or where a followed log has nothing at hand.

        Raises:
            PositionLost: The log no longer keeps the position to go on from.
            PartitionStalled: Nothing came for `stall_after_s`, and the end is not reached.
            UnreadableBatch: A batch cannot be decompressed or decoded.
            ServiceUnavailable: The log cannot be reached.
        """
        if not self._records and not self.ended:
            self._poll(0)
        if self._end is not None and not self._records:
            self._wait(self._end)
        if self._end is not None and self._records and self._records[0].offset >= self._end:
            self.position = self._end  # what lies between holds no record
        if not self._records or self.ended:
            return None
        record = self._records.popleft()
        self.position = record.offset + 1
        return record

    @property
    def ended(self) -> bool:
        """Whether all was read up to the end there was at the start; never when following."""
        return self._end is not None and self.position >= self._end

    def _wait(self, end: int) -> None:
        """Poll until there is a record, or only what holds none was left before the end."""
        since_s = time.monotonic()
        reached = self.position
        while not self._records and not self.ended:
            if self.position > reached:
                since_s, reached = time.monotonic(), self.position
            waited_s = time.monotonic() - since_s
            if waited_s > _STOP_AFTER_S and self._should_stop():
                return
            if waited_s > self._stall_after_s:
                raise PartitionStalled(self._topic, self._partition, self.position, end, waited_s)
            self._poll(_POLL_S)

    def _poll(self, timeout_s: float) -> None:
        self._records.extend(self.source.poll(timeout_s))
        if not self._records:
            self._pass_over()

    def _pass_over(self) -> None:
        """Go on behind offsets that hold no record: marks of transactions, or what compaction took away."""
        behind = self.source.position()[self._partition]
        bound = behind if self._end is None else min(behind, self._end)  # positions must not depend on what came later
        self.position = max(self.position, bound)
