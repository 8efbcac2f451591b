"""A version's rows and catalog → the vectors of its items, and what else serving looks up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.checkpoint import VersionParts
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.encoder.one_thread import one_thread
from mind_dist.encoder.vectors import KeyedVectors
from mind_dist.errors import VersionError
from mind_dist.model.item_bag import COLD_KEY
from mind_dist.model.item_tower import ItemParts, ItemTower, item_chunks
from mind_dist.records import Keys, no_keys


@dataclass(frozen=True)
class ServedItems:
    """All that serving needs of a version's items: no optimizer state, no counts.

    Attributes:
        items: Vectors of the items, as the tower gives them.
        features: Rows of the table that are no items: of what behaviors, profiles and contexts say.
        catalog: The item catalog.
    """

    items: KeyedVectors
    features: KeyedVectors
    catalog: ItemCatalog


class Rows(NamedTuple):
    """Rows of the item table.

    Attributes:
        keys: Ascending, [n]. No key of the cold row where that was never trained: it is looked up in every step, and has
            a random vector then.
        vectors: One a key, [n, R].
        is_item: Which are rows of items, not of features, [n].
    """

    keys: Keys
    vectors: Tensor
    is_item: NDArray[np.bool_]

    def features(self) -> KeyedVectors:
        """Return the rows that are no items."""
        chosen = np.flatnonzero(~self.is_item)
        return KeyedVectors(self.keys[chosen], self.vectors[torch.from_numpy(chosen)])


def served_items(version: VersionParts, tower: ItemTower) -> ServedItems:
    """Return what serving needs, in memory.

    Raises:
        VersionError: The catalog does not fit the tower.
    """
    table, catalog = version.items(), version.catalog()
    check_catalog(version.uri, tower, catalog)
    untrained = ~(table.first_moment.any(axis=1) | table.second_moment.any(axis=1))
    table = table.take(np.flatnonzero(~((table.keys == COLD_KEY) & untrained)))
    rows = Rows(table.keys, torch.from_numpy(table.vectors), table.counts > 0)
    keys, vectors = [no_keys()], [torch.zeros(0, table.vectors.shape[1])]
    for some_keys, some_vectors in item_vectors(tower, rows, catalog):
        keys.append(some_keys)
        vectors.append(some_vectors)
    return ServedItems(KeyedVectors(np.concatenate(keys), torch.cat(vectors)), rows.features(), catalog)


def item_vectors(tower: ItemTower, rows: Rows, catalog: ItemCatalog) -> Iterator[tuple[Keys, Tensor]]:
    """Yield the items that have a vector, and their vectors as the tower gives them, some at a time, by key.

    A cold item is made of its features alone. One without any has no vector, not even that of the shared cold row:
    nothing is known of it that could tell it from others. Nor has any item that of a cold row which was never trained.
    """
    keys = np.union1d(catalog.keys, rows.keys[rows.is_item])
    cold_row = int(np.searchsorted(rows.keys, COLD_KEY))
    chunks = item_chunks(tower, rows.vectors, rows.keys, keys, catalog)
    while True:
        with one_thread():
            chunk = next(chunks, None)
        if chunk is None:
            return
        told = chunk.parts.known.numpy() & ~_is_cold_alone(chunk.keys, chunk.parts, cold_row, catalog)
        yield chunk.keys[told], chunk.vectors[torch.from_numpy(told)]


def check_catalog(uri: str, tower: ItemTower, catalog: ItemCatalog) -> None:
    """Check that a catalog has what a tower reads.

    Raises:
        VersionError: It has not.
    """
    found, expected = catalog.feature_values.shape[1], tower.num_continuous
    if found != expected:
        raise VersionError(uri, f"its catalog has {found} continuous features of items, its config says {expected}")


def _is_cold_alone(keys: Keys, parts: ItemParts, cold_row: int, catalog: ItemCatalog) -> NDArray[np.bool_]:
    """Tell which items are cold ones made of nothing but the shared cold row, [N]."""
    rows = catalog.rows(keys)
    cold = np.zeros(len(keys), dtype=np.bool_)
    cold[rows >= 0] = catalog.is_cold[rows[rows >= 0]]
    alone = parts.bags.mask[:, 0] & (parts.bags.members[:, 0] == cold_row) & parts.values.isnan().all(dim=1)
    return np.asarray(cold & alone.numpy())
