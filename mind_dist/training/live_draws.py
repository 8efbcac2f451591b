"""Draws from items whose counts change with every step, without a pass over all of them.

Items stand in one order for ever: that of their scattered keys. An item's weight is a whole number, so sums are exact,
and what a random number draws follows from the items and their counts alone, whatever came when: a resumed run draws
what an uninterrupted one does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mind_dist.keys import mix
from mind_dist.records import Keys, no_keys
from mind_dist.training.draws import DrawLaw

_ONE = 1 << 20
"""Weight of an item that was seen once: by so much weights are rounded, relatively."""
_PER_BUCKET = 64
"""Items of a bucket, of which a draw looks at all."""
_MOST_PENDING = 4096
"""Items that are kept beside the others before they are put among them, at the cost of a pass over all."""


class _Ordered:
    """Items in the order of their scattered keys."""

    def __init__(self) -> None:
        self.places = np.zeros(0, dtype=np.uint64)
        self.keys = no_keys()
        self.weights = np.zeros(0, dtype=np.int64)

    def find(self, places: NDArray[np.uint64]) -> tuple[Keys, NDArray[np.bool_]]:
        """Return where places are, and which are there at all."""
        at = np.searchsorted(self.places, places)
        if not len(self.places):
            return at, np.zeros(len(places), dtype=np.bool_)
        return at, self.places[np.minimum(at, len(self.places) - 1)] == places

    def insert(self, places: NDArray[np.uint64], keys: Keys, weights: NDArray[np.int64]) -> None:
        """Put in new items, in their order."""
        at = np.searchsorted(self.places, places)
        self.places = np.insert(self.places, at, places)
        self.keys = np.insert(self.keys, at, keys)
        self.weights = np.insert(self.weights, at, weights)


class LiveDraws:
    """Draws with replacement, in proportion to count ** power.

    Args:
        law: Of the counts.
        item_keys: Distinct items, [N].
        counts: How often each was seen, [N].
    """

    def __init__(self, law: DrawLaw, item_keys: Keys, counts: Keys) -> None:
        self.law = law
        self._settled, self._pending = _Ordered(), _Ordered()
        places = mix(item_keys)
        order = np.argsort(places)
        self._settled.insert(places[order], item_keys[order], self._weights(counts[order]))
        self._settle()

    def update(self, keys: Keys, counts: Keys) -> None:
        """Take in the counts of some items, new ones among them."""
        places, weights = mix(keys), self._weights(counts)
        order = np.argsort(places)
        places, keys, weights = places[order], keys[order], weights[order]
        for items in (self._settled, self._pending):
            at, there = items.find(places)
            self._add(places[there], weights[there] - items.weights[at[there]])
            items.weights[at[there]] = weights[there]
            places, keys, weights = places[~there], keys[~there], weights[~there]
        if len(places):
            self._pending.insert(places, keys, weights)
            self._add(places, weights)
            if len(self._pending.keys) > _MOST_PENDING:
                self._settle()

    def sample(self, count: int, generator: np.random.Generator) -> Keys:
        """Return drawn items; none where there are none."""
        cumulated = np.cumsum(self._sums)
        total = int(cumulated[-1])
        if not total:
            return no_keys()
        drawn = generator.integers(total, size=count)
        buckets = np.searchsorted(cumulated, drawn, side="right")
        distinct, which = np.unique(buckets, return_inverse=True)
        keys, weights, ends = self._items_of(distinct)
        within = np.cumsum(weights)
        before = np.concatenate([[0], within])[np.concatenate([[0], ends[:-1]])][which]
        rest = drawn - (cumulated[buckets] - self._sums[buckets])
        found: Keys = keys[np.searchsorted(within, before + rest, side="right")]
        return found

    def shares(self, keys: Keys) -> NDArray[np.float64]:
        """Return the probability that one draw is each item; 0 for one that is not drawn from."""
        places, weights = mix(keys), np.zeros(len(keys))
        for items in (self._settled, self._pending):
            at, there = items.find(places)
            weights[there] = items.weights[at[there]]
        return np.asarray(weights / max(1, int(self._sums.sum())))

    def _weights(self, counts: Keys) -> NDArray[np.int64]:
        return np.rint(counts.astype(np.float64) ** self.law.power * _ONE).astype(np.int64)

    def _settle(self) -> None:
        """Put what is pending among the others, and make buckets as many as there are items for."""
        self._settled.insert(self._pending.places, self._pending.keys, self._pending.weights)
        self._pending = _Ordered()
        self._bits = max(0, (len(self._settled.keys) // _PER_BUCKET).bit_length())
        bounds = np.arange(1, 1 << self._bits, dtype=np.uint64) << np.uint64((64 - self._bits) % 64)
        inner = np.searchsorted(self._settled.places, bounds)
        self._starts = np.concatenate([[0], inner, [len(self._settled.keys)]])
        cumulated = np.concatenate([[0], np.cumsum(self._settled.weights)])
        self._sums = np.diff(cumulated[self._starts])

    def _bucket_of(self, places: NDArray[np.uint64]) -> Keys:
        if not self._bits:
            return np.zeros(len(places), dtype=np.int64)
        return (places >> np.uint64(64 - self._bits)).astype(np.int64)

    def _add(self, places: NDArray[np.uint64], change: NDArray[np.int64]) -> None:
        np.add.at(self._sums, self._bucket_of(places), change)

    def _items_of(self, buckets: Keys) -> tuple[Keys, NDArray[np.int64], Keys]:
        """Return keys and weights of the items of distinct, ascending buckets, in their order, and where each bucket ends."""
        starts, lengths = self._starts[buckets], self._starts[buckets + 1] - self._starts[buckets]
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
        settled = self._settled
        keys, weights = settled.keys[at], settled.weights[at]
        pending = self._bucket_of(self._pending.places)
        mine = np.flatnonzero(np.isin(pending, buckets))
        if len(mine):
            # where the items that are pending belong among the others, which both stand in their order
            places = settled.places[at]
            into = np.searchsorted(places, self._pending.places[mine])
            keys = np.insert(keys, into, self._pending.keys[mine])
            weights = np.insert(weights, into, self._pending.weights[mine])
            ends += np.searchsorted(pending[mine], buckets, side="right")
        return keys, weights, ends
