"""The catalog of a run on an event log: what the dataset knows of items, and those that the log alone has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, FEATURE_VALUES, IS_COLD, ItemCatalog
from mind_dist.records import Keys


class LiveCatalog:
    """A dataset's items, and further ones as a log brings them: without features, since nothing else is known of them.

    Args:
        of_dataset: What is known beforehand, features and all.
    """

    def __init__(self, of_dataset: ItemCatalog) -> None:
        self.of_dataset = of_dataset
        self._names: dict[int, str] = {}

    def add_names(self, names: Mapping[int, str]) -> None:
        """Take note of outside ids of items."""
        self._names.update(names)

    def add_names_of(self, catalog: ItemCatalog) -> None:
        """Take note of the outside ids of a catalog that was saved."""
        new = catalog.table.filter(pa.array(self.of_dataset.rows(catalog.keys) < 0))
        self._names.update(zip(new["item_id"].to_pylist(), new["original_id"].to_pylist(), strict=True))

    def keep_names(self, item_keys: Keys) -> None:
        """Drop the outside ids of all items but these: a log without end would bring ever more of them."""
        kept = set(item_keys.tolist())
        self._names = {key: name for key, name in self._names.items() if key in kept}

    def of(self, item_keys: Keys, counts: Keys, *, without_others: bool) -> ItemCatalog:
        """Return the catalog of a version.

        Args:
            item_keys: Items that have a row, ascending, [N].
            counts: How often each was seen, [N].
            without_others: Leave out those of the dataset that are none of them.
        """
        known = self.of_dataset
        table = known.table.filter(pa.array(np.isin(known.keys, item_keys))) if without_others else known.table
        new = known.rows(item_keys) < 0
        added = self._rows(table.schema, item_keys[new], counts[new])
        return ItemCatalog(pa.concat_tables([table, added]).sort_by("item_id").combine_chunks())

    def _rows(self, schema: pa.Schema, keys: Keys, counts: Keys) -> pa.Table:
        """Return rows of items of which the key alone is known, and the outside id."""
        ids = [self._names.get(key, str(key)) for key in keys.tolist()]
        size = len(keys)
        known = {
            "item_id": pa.array(keys),
            "original_id": pa.array(ids, pa.string()),
            "count": pa.array(counts),
            "feature_keys": pa.array([[]] * size, pa.list_(pa.int64())),
            IS_COLD: pa.array([False] * size),
            **{name: pa.array([limit] * size, pa.int64()) for name, limit in AVAILABILITY_LIMITS.items()},
        }
        columns = [
            _no_values(field.type, size)
            if field.name == FEATURE_VALUES
            else known.get(field.name, pa.nulls(size, field.type)).cast(field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def _no_values(kind: pa.DataType, size: int) -> pa.Array:
    """Return continuous features of items of which none is known."""
    return pa.FixedSizeListArray.from_arrays(pa.nulls(size * kind.list_size, kind.value_type), type=kind)
