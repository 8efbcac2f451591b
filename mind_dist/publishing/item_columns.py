"""Item catalog → the columns items are filtered by."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from mind_dist.data.codec import IdType
from mind_dist.data.parquet import AVAILABILITY_LIMITS, IS_COLD, ITEM_SCHEMA, ItemCatalog
from mind_dist.index.vector_store import Column
from mind_dist.records import Keys

_MISSING: dict[str, Any] = {"text": "", "texts": [], "integer": 0, "real": 0.0}
"""What stands for no value: Milvus 2.3 has no nulls."""

_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "integer": pa.int64(),
    "real": pa.float64(),
}


def item_columns(catalog: ItemCatalog, item_keys: Keys, id_type: IdType) -> dict[Column, list[Any]]:
    """Return the values of each raw feature and display column, and the outside ids where these are strings.

    Numbers stay numbers, lists become lists of texts, everything else becomes text. An item without a value, or
    that the catalog does not have, gets "", [], or 0; when it is available has no bound then.

    Args:
        catalog: The items known by their features.
        item_keys: The items wanted, [N].
        id_type: What ids are outside.

    Returns:
        Column → N values.
    """
    left_out = {*ITEM_SCHEMA.names, IS_COLD} - ({"original_id"} if id_type == "string" else set())
    at = catalog.rows(item_keys)
    rows = pa.array(at, mask=at < 0)
    fields = [field for field in catalog.table.schema if field.name not in left_out]
    columns = {Column(field.name, _kind(field.type)): catalog.table[field.name].take(rows) for field in fields}
    return {column: _values(column, values) for column, values in columns.items()}


def _kind(data_type: pa.DataType) -> str:
    if pa.types.is_integer(data_type):
        return "integer"
    if pa.types.is_floating(data_type):
        return "real"
    return "texts" if pa.types.is_list(data_type) or pa.types.is_large_list(data_type) else "text"


def _values(column: Column, values: pa.ChunkedArray) -> list[Any]:
    missing = AVAILABILITY_LIMITS.get(column.name, _MISSING[column.kind])
    return [missing if _is_missing(value) else value for value in values.cast(_ARROW[column.kind]).to_pylist()]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
