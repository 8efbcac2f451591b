"""The port to an ordered log of behavior events, and its in-memory implementation.

A log has partitions; each is an ordered list of records with positions and belongs to one worker at a time.
Whatever reads events — the updater that serves, the Kafka side of training — reads them through `EventSource`.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mind_dist.errors import PositionLost
from mind_dist.records import Positions, Record


class EventSource(Protocol):
    """Records of the partitions this worker owns, from a position on.

    Reading never commits by itself. Implementations translate client errors to `mind_dist.errors`.
    """

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, each partition's in order; empty when none came within `timeout_s`.

        Raises:
            PositionLost: A position to go on from is no longer kept, or behind the end.
            ServiceUnavailable: The log could not be reached within the implementation's bound.
        """
        ...

    def assignment(self) -> frozenset[int]:
        """Return the partitions owned now; it may change at any poll."""
        ...

    def position(self) -> Positions:
        """Return, for every owned partition, the position of the next record to poll."""
        ...

    def oldest_positions(self) -> Positions:
        """Return, for every owned partition, the position of the oldest record kept."""
        ...

    def end_positions(self) -> Positions:
        """Return, for every owned partition, the position after its newest record."""
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
        """Return the group's stored positions of the owned partitions; those never stored are absent."""
        ...

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing more from these partitions until resumed."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll from these partitions again."""
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


@dataclass
class InMemoryLog:
    """A partitioned log in this process, the twin of a broker's topic; safe to share between threads."""

    num_partitions: int = 1
    _partitions: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))
    _first_offset: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _committed: dict[tuple[str, int], int] = field(default_factory=dict)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def append(self, key: bytes | None, value: bytes | None, partition: int = 0) -> int:
        """Append a record and return its offset."""
        with self._lock:
            offset = self.end(partition)
            now_ms = time.time_ns() // 1_000_000
            self._partitions[partition].append(Record(partition, offset, key, value, now_ms))
            self._lock.notify_all()
            return offset

    def truncate(self, partition: int, first_offset: int) -> None:
        """Forget the records below an offset, as a broker's retention does."""
        with self._lock:
            kept = [record for record in self._partitions[partition] if record.offset >= first_offset]
            self._partitions[partition] = kept
            self._first_offset[partition] = first_offset

    def first(self, partition: int) -> int:
        """Return the offset of the oldest record kept."""
        return self._first_offset[partition]

    def end(self, partition: int) -> int:
        """Return the offset after the newest record."""
        return self._first_offset[partition] + len(self._partitions[partition])

    def read(self, partition: int, position: int, count: int) -> list[Record]:
        """Return up to `count` records from a position on.

        Raises:
            PositionLost: The position is below the oldest record kept, or behind the end.
        """
        with self._lock:
            first = self.first(partition)
            if not first <= position <= self.end(partition):
                raise PositionLost(partition, position, first)
            return self._partitions[partition][position - first : position - first + count]

    def wait(self, timeout_s: float) -> None:
        """Return when something was appended, or after `timeout_s`."""
        with self._lock:
            self._lock.wait(timeout_s)

    def store(self, group: str, positions: Positions) -> None:
        """Keep a group's positions."""
        with self._lock:
            self._committed.update({(group, partition): p for partition, p in positions.items()})

    def stored(self, group: str, partitions: Iterable[int]) -> Mapping[int, int]:
        """Return a group's positions of some partitions."""
        with self._lock:
            return {p: self._committed[group, p] for p in partitions if (group, p) in self._committed}


class InMemorySource:
    """An `EventSource` over an `InMemoryLog`, going on from its group's stored positions.

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
        self._owned = frozenset(range(log.num_partitions) if partitions is None else partitions)
        self._max_records = max_records
        self._paused: set[int] = set()
        stored = log.stored(group, self._owned)
        self._position = {p: stored.get(p, log.first(p)) for p in sorted(self._owned)}

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, at most `max_records` over all partitions."""
        records = self._read()
        if not records and timeout_s > 0:
            self._log.wait(timeout_s)
            records = self._read()
        return records

    def _read(self) -> list[Record]:
        records: list[Record] = []
        for partition in self._position:
            if partition not in self._paused:
                room = self._max_records - len(records)
                taken = self._log.read(partition, self._position[partition], room)
                self._position[partition] += len(taken)
                records += taken
        return records

    def assignment(self) -> frozenset[int]:
        """Return the partitions given at the start."""
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

    def seek(self, positions: Positions) -> None:
        """Go on from these positions."""
        self._position.update({p: position for p, position in positions.items() if p in self._owned})

    def commit(self, positions: Positions) -> None:
        """Store positions in the log."""
        self._log.store(self._group, positions)

    def committed(self) -> Positions:
        """Return the stored positions."""
        return self._log.stored(self._group, self._owned)

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing more from these partitions."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll from these partitions again."""
        self._paused.difference_update(partitions)

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
