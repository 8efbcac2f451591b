"""Item catalog → the columns items are filtered by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, FEATURE_VALUES, IS_COLD, ITEM_SCHEMA, ItemCatalog
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import Column
from mind_dist.keys import IdType
from mind_dist.limits import MAX_COLUMNS, index_problem
from mind_dist.records import Keys

_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "integer": pa.int64(),
    "real": pa.float64(),
}


def item_columns(catalog: ItemCatalog, item_keys: Keys, id_type: IdType) -> dict[Column, list[Any]]:
    """Return the values of each raw feature and display column, and the outside ids where these are strings.

    Numbers stay numbers, lists become lists of texts, everything else becomes text. An item without a value (null or
    NaN), or that the catalog does not have, gets None, or [] in a column of lists.
    When an item is available has no bound then.

    Args:
        catalog: The items known by their features.
        item_keys: The items wanted, [N].
        id_type: What ids are outside.

    Returns:
        Column → N values. A column is nullable where one of these is None.

    Raises:
        PublishError: A column's name is one that an index keeps for itself, or cannot store.
    """
    left_out = {*ITEM_SCHEMA.names, IS_COLD, FEATURE_VALUES} - ({"original_id"} if id_type == "string" else set())
    at = catalog.rows(item_keys)
    rows = pa.array(at, mask=at < 0)
    fields = [field for field in catalog.table.schema if field.name not in left_out]
    _check_names([field.name for field in fields])
    return dict(_column(field.name, _kind(field.type), catalog.table[field.name].take(rows)) for field in fields)


def _check_names(names: Sequence[str]) -> None:
    """Check what a filter names columns by: no server takes other names or more, or reads others in a filter."""
    if len(names) > MAX_COLUMNS:
        raise PublishError(f"an index has at most {MAX_COLUMNS} item columns, the catalog {len(names)}: prepare fewer")
    for name in names:
        if problem := index_problem(name):
            raise PublishError(
                f"an index cannot have an item column {name!r}: it {problem}; rename it and prepare again"
            )


def _kind(data_type: pa.DataType) -> str:
    if pa.types.is_integer(data_type):
        return "integer"
    if pa.types.is_floating(data_type):
        return "real"
    return "texts" if pa.types.is_list(data_type) or pa.types.is_large_list(data_type) else "text"


def _column(name: str, kind: str, values: pa.ChunkedArray) -> tuple[Column, list[Any]]:
    missing = AVAILABILITY_LIMITS.get(name) if kind == "integer" else None
    plain: list[Any] = [missing if _is_missing(value) else value for value in values.cast(_ARROW[kind]).to_pylist()]
    if kind == "texts":
        return Column(name, kind), [[text for text in value or () if text is not None] for value in plain]
    return Column(name, kind, nullable=None in plain), plain


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
