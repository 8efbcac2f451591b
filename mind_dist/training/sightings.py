"""How often keys were seen, and when last; a step costs what it counts, however many keys are known."""

from __future__ import annotations

import numpy as np

from mind_dist.records import Keys
from mind_dist.training.key_index import KeyIndex


class Sightings:
    """Counts by key.

    Attributes:
        total: Sum of the counts.
    """

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._counts = np.zeros(0, dtype=np.int64)
        self._last_seen_ms = np.zeros(0, dtype=np.int64)
        self.total = 0

    @property
    def keys(self) -> Keys:
        """What was seen, ascending, [N]."""
        return self._index.ascending

    def add(self, keys: Keys, counts: Keys, seen_ms: Keys | int) -> None:
        """Count sightings of distinct keys."""
        at = self._place(keys)
        self._counts[at] += counts
        self._last_seen_ms[at] = np.maximum(self._last_seen_ms[at], seen_ms)
        self.total += int(counts.sum())

    def set(self, keys: Keys, counts: Keys, seen_ms: Keys | int) -> None:
        """Replace what is known of distinct keys."""
        at = self._place(keys)
        self.total += int(np.sum(counts)) - int(self._counts[at].sum())
        self._counts[at] = counts
        self._last_seen_ms[at] = seen_ms

    def of(self, keys: Keys) -> tuple[Keys, Keys]:
        """Return counts and last times of keys, zeros where never seen."""
        at = self._index.find(keys)
        if not len(self._index):
            return np.zeros_like(keys), np.zeros_like(keys)
        return np.where(at >= 0, self._counts[at], 0), np.where(at >= 0, self._last_seen_ms[at], 0)

    def _place(self, keys: Keys) -> Keys:
        """Return where keys stand, after making room for the new ones."""
        at = self._index.find(keys)
        new = at < 0
        if new.any():
            first = len(self._index)
            self._index.add(keys[new])
            at[new] = np.arange(first, len(self._index))
            if len(self._index) > len(self._counts):
                self._counts = _grown(self._counts, len(self._index))
                self._last_seen_ms = _grown(self._last_seen_ms, len(self._index))
        return at


def _grown(column: Keys, size: int) -> Keys:
    grown = np.zeros(max(size, 2 * len(column)), dtype=np.int64)
    grown[: len(column)] = column
    return grown
