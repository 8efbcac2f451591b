"""Items and how often each was seen → negatives drawn from them."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mind_dist.records import Keys


class DrawLaw(NamedTuple):
    """By which law items are drawn.

    Attributes:
        distribution: `counts`, in proportion to count ** power; `log_uniform`, to log(1 + 1 / rank), rank 1 the item seen
            most often.
        power: Of the counts; 0 draws evenly.
    """

    distribution: Literal["counts", "log_uniform"] = "counts"
    power: float = 0.0


EVENLY = DrawLaw()


class ItemDraws:
    """Draws from some items by a law, with replacement.

    Args:
        item_keys: Distinct and ascending, [N].
        counts: How often each was seen, [N]; to draw evenly, and no more, none are needed.
        law: How often each is drawn.
    """

    def __init__(self, item_keys: Keys, counts: Keys, law: DrawLaw) -> None:
        self.law = law
        self._item_keys = item_keys
        self._counts = counts

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return _weights(self._counts, self.law)

    @cached_property
    def _cumulated(self) -> NDArray[np.float64]:
        return np.cumsum(self._weights)

    def sample(self, count: int, generator: np.random.Generator) -> Keys:
        """Return drawn items; none where there are none."""
        num_items = len(self._item_keys)
        count = count if num_items else 0
        if self.law == EVENLY:
            return self._item_keys[generator.integers(num_items, size=count)]
        at = np.searchsorted(self._cumulated, generator.random(count) * self._cumulated[-1:], side="right")
        return self._item_keys[np.minimum(at, num_items - 1)]

    def shares(self, keys: Keys) -> NDArray[np.float64]:
        """Return the probability that one draw is each item; 0 for one that is not drawn from."""
        if not len(self._item_keys):
            return np.zeros(len(keys))
        places = np.minimum(np.searchsorted(self._item_keys, keys), len(self._item_keys) - 1)
        real = self._item_keys[places] == keys
        return np.asarray(np.where(real, self._weights[places], 0.0) / self._cumulated[-1])


def _weights(counts: Keys, law: DrawLaw) -> NDArray[np.float64]:
    """Return the weights by which items with given counts are drawn."""
    if law.distribution == "counts":
        return np.asarray(counts.astype(np.float64) ** law.power)
    ranks = np.empty(len(counts))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return np.log1p(1 / ranks)
