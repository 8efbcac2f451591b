"""Histories → a sparse matrix of what counts of them: the newest behaviors, weighed by age."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.records import BehaviorSequence, Keys

LASTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 400)
"""How many of the newest behaviors may count."""

DECAYS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 1.0)
"""Weight of each beside the next newer one."""


class Histories:
    """Some histories, to be weighed by several recencies.

    Args:
        histories: Of users; behaviors that are no items of the catalog are passed over.
        catalog: The items, N of them.
        most: Behaviors of each that may count at all, the newest.
    """

    def __init__(self, histories: Sequence[BehaviorSequence], catalog: ItemCatalog, most: int = max(LASTS)) -> None:
        found = [catalog.rows(history.item_keys) for history in histories]
        newest = [rows[rows >= 0][::-1][:most] for rows in found]
        self._lengths = np.array([len(rows) for rows in newest], dtype=np.int64)
        self._rows = np.concatenate([np.empty(0, dtype=np.int64), *newest])
        self._ages = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(len(rows)) for rows in newest)])
        self._num_items = len(catalog)

    def matrix(self, last: int, decay: float, weights: NDArray[np.float32] | None = None) -> csr_array:
        """Return decay^age for the newest `last` behaviors of each history, age 0 being the newest, [n, N].

        An item that is there several times adds up.

        Args:
            last: Behaviors that count.
            decay: Weight of each beside the next newer one.
            weights: A further weight for each item, [N].
        """
        kept = self._ages < last
        rows = self._rows[kept]
        values = (np.float32(decay) ** np.arange(last, dtype=np.float32))[self._ages[kept]]
        if weights is not None:
            values = values * weights[rows]
        starts: Keys = np.concatenate([[0], np.cumsum(np.minimum(self._lengths, last))])
        return csr_array((values, rows, starts), shape=(len(self._lengths), self._num_items))
