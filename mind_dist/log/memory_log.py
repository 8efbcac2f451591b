"""A partitioned log in this process: the twin of a broker's topics, which tests and demos read like those."""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mind_dist.errors import PositionLost, UnreadableBatch
from mind_dist.log.identity import LogIdentity
from mind_dist.records import Positions, Record


@dataclass
class InMemoryLog:
    """A partitioned log in this process, the twin of a broker's topic; safe to share between threads."""

    num_partitions: int = 1
    identity: LogIdentity = field(default_factory=lambda: LogIdentity("memory", "events", uuid.uuid4().hex))
    _records: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))
    _ends: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _first_offset: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _unreadable: dict[int, dict[int, tuple[str, str]]] = field(default_factory=lambda: defaultdict(dict))
    _hidden_from: dict[int, int] = field(default_factory=dict)
    _stalled: set[int] = field(default_factory=set)
    _committed: dict[tuple[str, int], int] = field(default_factory=dict)
    _notes: dict[tuple[str, int], str] = field(default_factory=dict)
    _generations: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def append(self, key: bytes | None, value: bytes | None, partition: int = 0) -> int:
        """Append a record and return its offset."""
        with self._lock:
            offset = self._ends[partition]
            now_ms = time.time_ns() // 1_000_000
            self._records[partition].append(Record(partition, offset, key, value, now_ms))
            self.skip(partition)
            return offset

    def skip(self, partition: int, count: int = 1) -> None:
        """Move the end, leaving offsets without a record: transaction markers, aborted or compacted records."""
        with self._lock:
            self._ends[partition] += count
            self._lock.notify_all()

    def append_unreadable(self, partition: int, codec: str, package: str) -> int:
        """Append a batch whose codec no reader has the library for, and return its offset."""
        with self._lock:
            offset = self._ends[partition]
            self._unreadable[partition][offset] = codec, package
            self.skip(partition)
            return offset

    def truncate(self, partition: int, first_offset: int) -> None:
        """Forget the records below an offset, as a broker's retention does."""
        with self._lock:
            kept = [record for record in self._records[partition] if record.offset >= first_offset]
            self._records[partition] = kept
            self._first_offset[partition] = first_offset

    def stall(self, partition: int, *, stalled: bool = True) -> None:
        """Deliver nothing of a partition, or again what there is: as while its leader is away."""
        with self._lock:
            (self._stalled.add if stalled else self._stalled.discard)(partition)

    def grow(self, num_partitions: int) -> None:
        """Add empty partitions up to this number."""
        self.num_partitions = num_partitions

    def first(self, partition: int) -> int:
        """Return the offset of the oldest record kept."""
        return self._first_offset[partition]

    def end(self, partition: int) -> int:
        """Return the position up to which the partition can be read."""
        return min(self._ends[partition], self._hidden_from.get(partition, self._ends[partition]))

    def written_end(self, partition: int) -> int:
        """Return the position behind all that is written, hidden records included."""
        return self._ends[partition]

    def hide_from(self, partition: int, offset: int) -> None:
        """Let nobody read what stands from an offset on, as while a transaction that wrote it has not ended everywhere."""
        with self._lock:
            self._hidden_from.setdefault(partition, offset)

    def show_all(self) -> None:
        """Let all that is written be read."""
        with self._lock:
            self._hidden_from.clear()
            self._lock.notify_all()

    def read(self, partition: int, position: int, count: int) -> list[Record]:
        """Return up to `count` records from a position on; see `fetch`."""
        return self.fetch(partition, position, count)[0]

    def fetch(self, partition: int, position: int, count: int) -> tuple[list[Record], int]:
        """Return up to `count` records from a position on, and the position behind them and what holds no record.

        Raises:
            PositionLost: The position is below the oldest record kept, or behind the end.
            UnreadableBatch: The next batch cannot be read.
        """
        with self._lock:
            first, end = self.first(partition), self.end(partition)
            if not first <= position <= self._ends[partition]:
                raise PositionLost(partition, position, first)
            if partition in self._stalled:
                return [], position
            unreadable = min((at for at in self._unreadable[partition] if at >= position), default=end)
            records = self._records[partition]
            start = bisect_left(records, position, key=lambda record: record.offset)
            found = [record for record in records[start : start + count] if record.offset < unreadable]
            if found:
                return found, found[-1].offset + 1
            if unreadable < end:
                codec, package = self._unreadable[partition][unreadable]
                raise UnreadableBatch("in memory", partition, unreadable, "", codec=codec, package=package)
            return [], max(position, end)

    def wait(self, timeout_s: float) -> None:
        """Return when something was appended, or after `timeout_s`."""
        with self._lock:
            self._lock.wait(timeout_s)

    def store(self, group: str, positions: Positions, notes: Mapping[int, str] | None = None) -> None:
        """Keep a group's positions, and what is noted beside them."""
        with self._lock:
            self._committed.update({(group, partition): p for partition, p in positions.items()})
            self._notes.update({(group, partition): (notes or {}).get(partition, "") for partition in positions})

    def stored(self, group: str, partitions: Iterable[int]) -> Mapping[int, int]:
        """Return a group's positions of some partitions."""
        with self._lock:
            return {p: self._committed[group, p] for p in partitions if (group, p) in self._committed}

    def notes(self, group: str, partitions: Iterable[int]) -> Mapping[int, str]:
        """Return what is noted beside a group's positions."""
        with self._lock:
            return {p: self._notes.get((group, p), "") for p in partitions}

    def evict(self, group: str) -> None:
        """Throw the group's members out, as a broker does with those that were silent for too long."""
        self._generations[group] += 1

    def generation(self, group: str) -> int:
        """Return how often members were thrown out of the group."""
        return self._generations[group]
