"""How often keys were seen, and when last; a step costs what it counts, however many keys are known."""

from __future__ import annotations

import numpy as np

from mind_dist.records import Keys
from mind_dist.training.key_index import KeyIndex


class Sightings:
    """Counts by key; what was never seen may be known, too. A key has a number from the time on when it became known.

    Attributes:
        total: Sum of the counts.
        newest_ms: When the last of all sightings was, 0 before the first.
    """

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._counts = np.zeros(0, dtype=np.int64)
        self._last_seen_ms = np.zeros(0, dtype=np.int64)
        self.total = 0
        self.newest_ms = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def keys(self) -> Keys:
        """What is known, ascending, [N]."""
        return self._index.ascending

    def find(self, keys: Keys) -> Keys:
        """Return keys' numbers, -1 where not known."""
        return self._index.find(keys)

    def add(self, keys: Keys, counts: Keys, seen_ms: Keys | int) -> None:
        """Count sightings of distinct keys."""
        at = self.place(keys)
        self._counts[at] += counts
        self._last_seen_ms[at] = np.maximum(self._last_seen_ms[at], seen_ms)
        self.total += int(counts.sum())
        self.newest_ms = max(self.newest_ms, int(np.max(seen_ms, initial=0)))

    def set(self, keys: Keys, counts: Keys, seen_ms: Keys | int) -> None:
        """Replace what is known of distinct keys."""
        at = self.place(keys)
        self.total += int(np.sum(counts)) - int(self._counts[at].sum())
        self._counts[at] = counts
        self._last_seen_ms[at] = seen_ms
        self.newest_ms = max(self.newest_ms, int(np.max(seen_ms, initial=0)))

    def of(self, keys: Keys) -> tuple[Keys, Keys]:
        """Return counts and last times of keys, zeros where never seen."""
        at = self._index.find(keys)
        if not len(self._index):
            return np.zeros_like(keys), np.zeros_like(keys)
        return np.where(at >= 0, self._counts[at], 0), np.where(at >= 0, self._last_seen_ms[at], 0)

    def not_seen_since(self, time_ms: int) -> Keys:
        """Return the numbers of what was seen, and for the last time before, ascending."""
        size = len(self._index)
        return np.flatnonzero((self._counts[:size] > 0) & (self._last_seen_ms[:size] < time_ms))

    def forget(self, numbers: Keys) -> Keys:
        """Know some keys no longer; the others get new numbers, in their order.

        Returns:
            Their old numbers, ascending.
        """
        kept = np.delete(np.arange(len(self._index)), numbers)
        keys, self._index = self._index.keys[kept], KeyIndex()
        self._index.add(keys)
        self._counts, self._last_seen_ms = self._counts[kept], self._last_seen_ms[kept]
        self.total = int(self._counts.sum())
        return kept

    def place(self, keys: Keys) -> Keys:
        """Return the numbers of distinct keys, which the new ones among them are given first: the next there are."""
        at = self._index.find(keys)
        new = at < 0
        if new.any():
            first = len(self._index)
            self._index.add(keys[new])
            at[new] = np.arange(first, len(self._index))
            if len(self._index) > len(self._counts):
                self._counts = grown(self._counts, len(self._index))
                self._last_seen_ms = grown(self._last_seen_ms, len(self._index))
        return at


def grown(column: Keys, size: int, fill: int = 0) -> Keys:
    """Return a longer column; doubling keeps the cost of growing in proportion to what is there."""
    longer = np.full(max(size, 2 * len(column)), fill, dtype=np.int64)
    longer[: len(column)] = column
    return longer
