"""The item catalog of a prepared dataset: what is known of each item, by key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.records import Keys

ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.int64()),
        ("original_id", pa.string()),
        ("count", pa.int64()),
        ("feature_keys", pa.list_(pa.int64())),
    ]
)
"""First columns of the item catalog: key, outside id, events in the train split, keys of the side features.
The raw feature and display columns follow, by their own names."""

IS_COLD = "is_cold"
"""Column of the item catalog: True for an item that is known from the metadata alone, because the log does not have it
or has it too seldom. Without the column, no item is cold."""

FEATURE_VALUES = "feature_values"
"""Column of the item catalog: the continuous features of an item in the manifest's order, standardised, as a list of
float32 of one length; null where missing. Without the column, there are none."""

AVAILABLE_FROM, AVAILABLE_UNTIL = "available_from", "available_until"
"""Columns of the item catalog, in milliseconds: an item may be recommended when from <= now < until. Without the columns
every item always may."""

AVAILABILITY_LIMITS = {AVAILABLE_FROM: 0, AVAILABLE_UNTIL: (1 << 63) - 1}
"""What stands where an item has no such bound."""


@dataclass(frozen=True)
class ItemCatalog:
    """The items: keys, counts and side-feature keys as arrays, all columns as a table.

    Attributes:
        table: One row an item, `ITEM_SCHEMA` first, in ascending order of `item_id`.
    """

    table: pa.Table

    def __post_init__(self) -> None:
        assert bool((np.diff(self.keys) > 0).all()), "the item catalog must be in ascending key order"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def keys(self) -> Keys:
        """Item keys, ascending, [N]."""
        return np.asarray(self.table["item_id"].to_numpy(), dtype=np.int64)

    @cached_property
    def counts(self) -> Keys:
        """Events of each item in the train split, [N]."""
        return np.asarray(self.table["count"].to_numpy(), dtype=np.int64)

    @cached_property
    def is_cold(self) -> NDArray[np.bool_]:
        """Tell of each item whether the metadata alone has it, [N]."""
        if IS_COLD not in self.table.column_names:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.table[IS_COLD].to_numpy(), dtype=np.bool_)

    @property
    def has_availability(self) -> bool:
        """Tell whether the catalog says when items are available."""
        return AVAILABLE_FROM in self.table.column_names

    def without_cold(self) -> ItemCatalog:
        """Return the items of the log alone."""
        return ItemCatalog(self.table.filter(pa.array(~self.is_cold))) if self.is_cold.any() else self

    @cached_property
    def feature_offsets(self) -> Keys:
        """Where each item's feature keys start in `feature_keys`, [N + 1]."""
        lengths = pc.list_value_length(self.table["feature_keys"]).to_numpy()
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @cached_property
    def feature_keys(self) -> Keys:
        """Feature keys of all items, one after the other."""
        return np.asarray(pc.list_flatten(self.table["feature_keys"]).to_numpy(), dtype=np.int64)

    @cached_property
    def feature_values(self) -> NDArray[np.float32]:
        """Continuous features of each item, standardised; NaN where missing, [N, F]."""
        if FEATURE_VALUES not in self.table.column_names:
            return np.zeros((len(self), 0), dtype=np.float32)
        width = self.table.schema.field(FEATURE_VALUES).type.list_size
        flat = self.table[FEATURE_VALUES].combine_chunks().flatten()
        return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)

    def rows(self, keys: Keys) -> Keys:
        """Return each key's row, -1 where the catalog does not have it."""
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)
