"""Counts per item, added up as batches and buckets report them: what preparing filters items by."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import compute as pc

_MERGE_ROWS = 1 << 20


class ItemCounts:
    """Counts per item, in memory that follows the number of items."""

    def __init__(self) -> None:
        self._parts = [self._table(pa.array([], pa.int64()), pa.array([], pa.int64()), None)]
        self._pending = 0

    def add(self, found: pa.Table) -> None:
        """Add `items` with their `counts`, which may be negative, and `ids` where there are any."""
        items, counts = pc.list_flatten(found["items"]), pc.list_flatten(found["counts"])
        ids = pc.list_flatten(found["ids"]) if "ids" in found.column_names else None
        self._parts.append(self._table(items, counts, ids))
        self._pending += len(items)
        if self._pending > max(_MERGE_ROWS, self._parts[0].num_rows):
            self._parts = [self.total()]
            self._pending = 0

    def total(self) -> pa.Table:
        """Return a row per item: `item` (ascending), `count`, `id`."""
        grouped = pa.concat_tables(self._parts).group_by("item", use_threads=False)
        total = grouped.aggregate([("count", "sum"), ("id", "first")])
        return total.rename_columns(["item", "count", "id"]).sort_by("item")

    @staticmethod
    def _table(items: pa.Array, counts: pa.Array, ids: pa.Array | None) -> pa.Table:
        originals = ids if ids is not None and len(ids) else pa.nulls(len(items), pa.string())
        return pa.table({"item": items, "count": counts, "id": originals})
