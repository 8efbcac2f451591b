"""Keys → numbers 0, 1, … in the order they came: a hash index whose cost follows what is asked, not what it holds."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mind_dist.keys import mix
from mind_dist.records import Keys

_FEWEST_SLOTS = 1024
_NOBODY = -1
_NUMBER = np.int32
"""Of a key, in its slot: half of what a key takes, and enough for two thousand million."""


class KeyIndex:
    """Distinct keys, found by open addressing: a key is in the first slot from its own on that nobody had.

    Slots are at least twice as many as keys, so a key is a slot or two from its own; making them twice as many when they
    run out costs each key added a constant. All is done for many keys at a time.
    """

    def __init__(self) -> None:
        self._size = 0
        self._keys = np.empty(_FEWEST_SLOTS // 2, dtype=np.int64)
        self._slots = np.full(_FEWEST_SLOTS, _NOBODY, dtype=_NUMBER)

    def __len__(self) -> int:
        return self._size

    @property
    def keys(self) -> Keys:
        """All keys in the order they came, [N]; not to be written to."""
        return self._keys[: self._size]

    @cached_property
    def ascending(self) -> Keys:
        """All keys, ascending, [N]; made anew after keys were added."""
        return np.sort(self.keys)

    def find(self, keys: Keys) -> Keys:
        """Return each key's number, -1 where it has none."""
        found = np.full(len(keys), _NOBODY, dtype=np.int64)
        waiting, slots = np.arange(len(keys)), self._own_slots(keys)
        while len(waiting):
            numbers = self._slots[slots]
            there = numbers != _NOBODY
            waiting, slots, numbers = waiting[there], slots[there], numbers[there]  # an empty slot: it is not here
            is_it = self._keys[numbers] == keys[waiting]
            found[waiting[is_it]] = numbers[is_it]
            waiting, slots = waiting[~is_it], self._next(slots[~is_it])
        return found

    def add(self, keys: Keys) -> None:
        """Give new, distinct keys the next numbers."""
        first, self._size = self._size, self._size + len(keys)
        if self._size > len(self._keys):
            self._reserve(max(self._size, 2 * len(self._keys)))
        self._keys[first : self._size] = keys
        if 2 * self._size > len(self._slots):
            self._slots = np.full(max(_FEWEST_SLOTS, 1 << (2 * self._size - 1).bit_length()), _NOBODY, dtype=_NUMBER)
            self._put(np.arange(self._size))
        else:
            self._put(np.arange(first, self._size))
        self.__dict__.pop("ascending", None)

    def _put(self, numbers: Keys) -> None:
        """Give numbers slots: of those that meet in an empty one, one gets it, and the others look further."""
        slots = self._own_slots(self._keys[numbers])
        while len(numbers):
            free = self._slots[slots] == _NOBODY
            self._slots[slots[free]] = numbers[free]
            left = self._slots[slots] != numbers
            numbers, slots = numbers[left], self._next(slots[left])

    def _own_slots(self, keys: Keys) -> Keys:
        return (mix(keys) & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _next(self, slots: Keys) -> Keys:
        return (slots + 1) & (len(self._slots) - 1)

    def _reserve(self, capacity: int) -> None:
        grown = np.empty(capacity, dtype=np.int64)
        grown[: len(self._keys)] = self._keys
        self._keys = grown
