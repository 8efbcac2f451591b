"""The port to an ordered log of behavior events, and its in-memory implementation.

A log has partitions; each is an ordered list of records with positions and belongs to one worker at a time.
Whatever reads events — the updater that serves, the Kafka side of training — reads them through `EventSource`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mind_dist.errors import StaleAssignment
from mind_dist.log.memory_log import InMemoryLog
from mind_dist.log.transactions import Membership
from mind_dist.records import Positions, Record

__all__ = ["DeadLetters", "EventSource", "InMemoryDeadLetters", "InMemoryLog", "InMemorySource"]


class EventSource(Protocol):
    """Records of the partitions this worker owns, from a position on.

    Reading never commits by itself. Implementations translate client errors to `mind_dist.errors`.
    """

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, each partition's in order; empty when none came within `timeout_s`.

        Raises:
            PositionLost: A position to go on from is no longer kept, or behind the end.
            UnreadableBatch: A batch cannot be decompressed or decoded.
            ServiceUnavailable: The log could not be reached within the implementation's bound.
        """
        ...

    def assignment(self) -> frozenset[int]:
        """Return the partitions owned now; it may change at any poll."""
        ...

    def position(self) -> Positions:
        """Return, for every owned partition, the position of the next record to poll.

        Positions may have gaps (transaction markers, compacted records); polling passes those that hold no record.
        """
        ...

    def oldest_positions(self) -> Positions:
        """Return, for every owned partition, the position of the oldest record kept."""
        ...

    def end_positions(self) -> Positions:
        """Return, for every owned partition, the position up to which it can be read now.

        It never waits for a partition that stands still.
        """
        ...

    def written_positions(self) -> Positions:
        """Return, for every owned partition, the position behind all that is written.

        What of it belongs to transactions under way can be read when these have ended.
        """
        ...

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        """Return, for every owned partition, how many positions lie between its next record and its end.

        Raises:
            ServiceUnavailable: The log did not answer within `timeout_s`.
        """
        ...

    def seek(self, positions: Positions) -> None:
        """Go on from these positions; partitions not named stay where they are."""
        ...

    def commit(self, positions: Positions) -> None:
        """Store positions for this source's group; all records below them are done with.

        Raises:
            StaleAssignment: The partitions have moved to another worker, which reads again what is not stored.
            ServiceUnavailable: The log could not be reached within the implementation's bound.
        """
        ...

    def committed(self) -> Positions:
        """Return the group's stored positions of the owned partitions; those never stored are absent.

        Positions of a transaction that is under way are waited for.
        """
        ...

    def notes(self) -> Mapping[int, str]:
        """Return what is noted beside the stored positions of the owned partitions."""
        ...

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing of these partitions until they are resumed, or owned anew."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll these partitions again."""
        ...

    def membership(self) -> Membership:
        """Return this source's place in its group as of the last poll."""
        ...

    def close(self) -> None:
        """Leave the log without committing."""
        ...


class DeadLetters(Protocol):
    """Where records go that cannot be decoded."""

    def send(self, record: Record, error: str) -> None:
        """Hand over a poison record with its reason and origin (headers of design 4.2)."""
        ...

    def flush(self) -> None:
        """Return when everything handed over is stored."""
        ...

    def close(self) -> None:
        """Flush and leave."""
        ...


_FETCHED_AHEAD = 1000
"""Records of a partition that an in-memory source takes at a time, like a client that fetches ahead."""


@dataclass
class _Fetched:
    """Records of a partition that are at hand, from a position on."""

    position: int
    records: deque[Record] = field(default_factory=deque)


class InMemorySource:
    """An `EventSource` over an `InMemoryLog`, going on from its group's stored positions.

    It is a member of its group that owns all partitions, those added later too, or it has `partitions` by hand. Like
    a broker's client it fetches ahead: a member that was thrown out still gets what it had fetched, once.

    >>> log = InMemoryLog()
    >>> log.append(b"7", b"{}")
    0
    >>> source = InMemorySource(log, group="demo")
    >>> [record.offset for record in source.poll(0)]
    [0]
    >>> source.commit(source.position())
    >>> dict(InMemorySource(log, group="demo").position())
    {0: 1}
    """

    def __init__(
        self,
        log: InMemoryLog,
        group: str,
        partitions: Iterable[int] | None = None,
        max_records: int = 500,
    ) -> None:
        self._log = log
        self._group = group
        self._is_member = partitions is None
        self._max_records = max_records
        self._fetched: dict[int, _Fetched] = {}
        self._position: dict[int, int] = {}
        self._generation = log.generation(group)
        self._owned: frozenset[int] = frozenset()
        self._paused: set[int] = set()
        self._own(range(log.num_partitions) if partitions is None else partitions)

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, at most `max_records` over all partitions."""
        if self._is_member and self._log.generation(self._group) != self._generation:
            left_over = self._take_fetched()
            if left_over:
                return left_over
            self._generation = self._log.generation(self._group)
            self._paused.clear()
            self._position.clear()
            self._own(())
        if self._is_member and len(self._owned) < self._log.num_partitions:
            self._own(range(self._log.num_partitions))
        records = self._read()
        if not records and timeout_s > 0:
            self._log.wait(timeout_s)
            records = self._read()
        return records

    def _own(self, partitions: Iterable[int]) -> None:
        """Own these partitions from now on; those that were not owned before start where the group has come to."""
        self._owned = frozenset(partitions)
        stored = self._log.stored(self._group, self._owned)
        starts = {p: stored.get(p, self._log.first(p)) for p in sorted(self._owned)}
        self._position = {p: self._position.get(p, start) for p, start in starts.items()}

    def _read(self) -> list[Record]:
        for partition, position in self._position.items():
            if partition in self._paused:
                continue
            fetched = self._fetched.get(partition, _Fetched(position))
            if fetched.position != position or not fetched.records:
                records, behind = self._log.fetch(partition, position, _FETCHED_AHEAD)
                self._fetched[partition] = _Fetched(position, deque(records))
                if not records:
                    self._position[partition] = behind
        return self._take_fetched()

    def _take_fetched(self) -> list[Record]:
        taken: list[Record] = []
        for partition, position in self._position.items():
            fetched = self._fetched.get(partition)
            if fetched is not None and fetched.position == position and partition not in self._paused:
                while fetched.records and len(taken) < self._max_records:
                    taken.append(fetched.records.popleft())
                    self._position[partition] = fetched.position = taken[-1].offset + 1
        return taken

    def assignment(self) -> frozenset[int]:
        """Return the partitions owned as far as this source knows."""
        return self._owned

    def position(self) -> Positions:
        """Return the next position of every partition."""
        return dict(self._position)

    def oldest_positions(self) -> Positions:
        """Return the oldest position of every partition."""
        return {p: self._log.first(p) for p in self._position}

    def end_positions(self) -> Positions:
        """Return the end of every partition."""
        return {p: self._log.end(p) for p in self._position}

    def written_positions(self) -> Positions:
        """Return the position behind all that is written of every partition."""
        return {p: self._log.written_end(p) for p in self._position}

    def lag(self, timeout_s: float) -> Mapping[int, int]:  # noqa: ARG002 - nothing here takes time
        """Return how far every partition is from its end."""
        return {p: max(0, end - self._position[p]) for p, end in self.end_positions().items()}

    def seek(self, positions: Positions) -> None:
        """Go on from these positions."""
        self._position.update({p: position for p, position in positions.items() if p in self._owned})

    def commit(self, positions: Positions) -> None:
        """Store positions in the log.

        Raises:
            StaleAssignment: This member was thrown out of its group.
        """
        if self._is_member and self._log.generation(self._group) != self._generation:
            raise StaleAssignment(f"partitions {sorted(positions)} have moved on")
        self._log.store(self._group, positions)

    def committed(self) -> Positions:
        """Return the stored positions."""
        return self._log.stored(self._group, self._owned)

    def notes(self) -> Mapping[int, str]:
        """Return what is noted beside them."""
        return self._log.notes(self._group, self._owned)

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing of these partitions."""
        self._paused |= set(partitions) & self._owned

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll these partitions again."""
        self._paused -= set(partitions)

    def membership(self) -> Membership:
        """Return the place in the group as of the last poll."""
        return Membership(self._group, self._generation, counted_s=time.monotonic())

    def close(self) -> None:
        """Do nothing: the log lives on."""


class InMemoryDeadLetters:
    """`DeadLetters` kept in a list."""

    def __init__(self) -> None:
        self.letters: list[tuple[Record, str]] = []

    def send(self, record: Record, error: str) -> None:
        """Keep the record with its reason."""
        self.letters.append((record, error))

    def flush(self) -> None:
        """Do nothing: it is kept already."""

    def close(self) -> None:
        """Do nothing."""
