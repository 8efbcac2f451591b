"""A column of the catalog → the categories that diversity and category coverage are taken over.

Paths such as `Beauty|Skin care|Creams`, cut into a list, begin alike: where all items share a root, any two items of a list
have a category in common, and diversity by the root is 0 whatever is recommended. So categories that nearly all items have
are left out, and the levels below them tell items apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest
from mind_dist.errors import ConfigError

_NEARLY_ALL = 0.95
"""Share of the items with a category of which one must be to tell nothing."""

_FEWEST = 2
"""Categories that it takes to tell items apart."""


@dataclass(frozen=True)
class Categories:
    """Which categories each item has.

    Attributes:
        column: Column of the catalog they come from.
        indicators: Of each item, [N + 1, C]; the last row is for what the catalog does not have.
        left_out: Categories that are not among them, since nearly all items have them.
    """

    column: str
    indicators: NDArray[np.bool_]
    left_out: tuple[str, ...] = ()

    @property
    def tell_apart(self) -> bool:
        """Whether there are at least two."""
        return bool(self.indicators.shape[1] >= _FEWEST)

    @classmethod
    def of(cls, catalog: ItemCatalog, column: str) -> Categories:
        """Return those of a column, without what nearly all items have; all of them where fewer than two would be left.

        Raises:
            ConfigError: The catalog has no such column.
        """
        names, indicators = _read(catalog, column)
        shares = indicators.sum(axis=0) / max(1, int(indicators.any(axis=1).sum()))
        tells = shares < _NEARLY_ALL
        if tells.sum() < _FEWEST:
            return cls(column, indicators)
        left_out = tuple(name for name, kept in zip(names, tells, strict=True) if not kept)
        return cls(column, indicators[:, tells], left_out)


def first_that_tell_apart(catalog: ItemCatalog, manifest: DatasetManifest) -> Categories | None:
    """Return the categories of the first categorical feature that has several; else of the first, or None without any."""
    kinds = ("category", "categories")
    columns = [feature.name for feature in manifest.item_features if feature.kind in kinds]
    found = [Categories.of(catalog, column) for column in columns]
    return next((each for each in found if each.tell_apart), found[0] if found else None)


def _read(catalog: ItemCatalog, name: str) -> tuple[list[str], NDArray[np.bool_]]:
    """Return the categories of a column, and which of them each item has, [N + 1, C]."""
    if name not in catalog.table.column_names:
        raise ConfigError("category", f"no column of the item catalog; it has {', '.join(catalog.table.column_names)}")
    column = catalog.table[name].combine_chunks()
    several = str(column.type).startswith("list")
    rows = pc.list_parent_indices(column).to_numpy() if several else np.arange(len(column))
    encoded = (pc.list_flatten(column) if several else column).dictionary_encode()
    known = np.asarray(encoded.is_valid())
    indicators = np.zeros((len(catalog) + 1, len(encoded.dictionary)), dtype=np.bool_)
    indicators[rows[known], np.asarray(encoded.indices.drop_null())] = True
    return [str(each) for each in encoded.dictionary.to_pylist()], indicators
