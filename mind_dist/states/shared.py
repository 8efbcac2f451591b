"""What the owner of partitions shares with the views of its process: stores to read, what is new, and whether it is still theirs."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mind_dist.states.local_store import LocalStore

_APPENDED_KEPT = 10_000


class Owned(NamedTuple):
    """The partitions at work as of now.

    Attributes:
        stores: Partition → its states.
        taken_over: When the newest of them was taken over, in seconds that never go back.
    """

    stores: Mapping[int, LocalStore]
    taken_over: float


class SharedStores:
    """Safe to share between threads: one of them owns, the others read.

    Args:
        lease_s: For how long after it has counted a member the group cannot have given its partitions to others.
        clock: Seconds that never go back; they pass while a process is frozen, too.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._owned = Owned({}, clock())
        self._counted_at = -math.inf
        self._changed = threading.Condition()
        self._num_changes = 0
        self._appended: dict[int, deque[tuple[int, int]]] = {}
        self._behind: dict[str, int] = {}

    def own(self, stores: Mapping[int, LocalStore]) -> None:
        """Say which partitions are at work now."""
        with self._changed:
            if stores.keys() - self._owned.stores.keys():
                self._owned = Owned(dict(stores), self._clock())
            else:
                self._owned = Owned(dict(stores), self._owned.taken_over)
            self._appended = {p: found for p, found in self._appended.items() if p in stores}
        self.tell()

    def counted(self, at: float) -> None:
        """Say when the group counted this process among its members last."""
        self._counted_at = at

    def note_appended(self, partition: int, end: int, appended_ms: Iterable[int]) -> None:
        """Keep when the events were appended that states below a position reflect."""
        with self._changed:
            kept = self._appended.setdefault(partition, deque(maxlen=_APPENDED_KEPT))
            kept.extend((end, each) for each in appended_ms)

    def tell(self) -> None:
        """Wake whoever waits for news."""
        with self._changed:
            self._num_changes += 1
            self._changed.notify_all()

    def owned(self) -> Owned:
        """Return the partitions at work."""
        return self._owned

    def is_ours(self) -> bool:
        """Tell whether the partitions cannot have moved since we were counted: not after the process was frozen."""
        return self._clock() - self._counted_at < self._lease_s

    def wait(self, seen: int, timeout_s: float) -> int:
        """Return how much news there was, at once where it is more than was seen, or after `timeout_s`."""
        with self._changed:
            if self._num_changes == seen:
                self._changed.wait(timeout_s)
            return self._num_changes

    def appended_below(self, partition: int, first: int, end: int) -> list[int]:
        """Return when the events were appended that states from `first` up to `end` reflect."""
        with self._changed:
            return [at for position, at in self._appended.get(partition, ()) if first < position <= end]

    def set_behind(self, model_version: str, count: int) -> None:
        """Say how many states a view is behind; 0 where it is gone."""
        self._behind[model_version] = count

    def most_behind(self) -> int:
        """Return how many states the slowest view is behind."""
        return max(list(self._behind.values()), default=0)
