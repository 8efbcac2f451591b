"""Items of the log and item metadata → the rows of the catalog: which items it has, and when each is available."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import PrepareConfig
from mind_dist.dataset.cleaning import keys_of, parse_ids
from mind_dist.dataset.features import rows_of
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, AVAILABLE_FROM, IS_COLD
from mind_dist.dataset.raw_log import plain, read_all
from mind_dist.dataset.times import parse_times
from mind_dist.errors import DatasetError
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.records import Keys

_LATEST_START_MS = 4_102_444_800_000
"""The year 2100: a start after it is a number in a finer unit than it was read in."""


@dataclass(frozen=True)
class AvailabilityColumns:
    """When each of N items may be recommended.

    Attributes:
        columns: `available_from` and `available_until` in milliseconds, [N] each; none where nothing is known.
        num_bad: Items with a value that is no time, or a start after the year 2100.
    """

    columns: dict[str, pa.Array]
    num_bad: int = 0


def catalog_items(config: PrepareConfig, items: pa.Table) -> pa.Table:
    """Return the items of the catalog as `item` (ascending), `id` (as text) and `is_cold`.

    Args:
        config: With the metadata, whose other items are the cold ones.
        items: The kept items of the log: `item` and, where ids are strings, `id`.

    Raises:
        DatasetError: A file of the metadata is missing, torn or lacks the column of the ids.
    """
    ids = items["id"] if config.id_type == "string" else items["item"].cast(pa.string())
    known = pa.table({"item": items["item"], "id": ids, IS_COLD: pa.array([False] * items.num_rows, pa.bool_())})
    if not (config.items.paths and config.items.keep_cold):
        return known
    listed = _listed_items(config)
    cold = listed.filter(pc.invert(pc.is_in(listed["item"], value_set=items["item"].combine_chunks())))
    marked = cold.append_column(IS_COLD, pa.array([True] * cold.num_rows, pa.bool_()))
    return pa.concat_tables([known, marked]).sort_by("item")


def _listed_items(config: PrepareConfig) -> pa.Table:
    """Return each item of the metadata once: `item` and `id`; rows whose id is none, or one that no item may have, are left out."""
    ids = parse_ids(_read(config, {})["id"], config.id_type).drop_null()
    keys, first = np.unique(keys_of(pa.chunked_array([ids])), return_index=True)
    allowed = (keys >= FIRST_KEY) & (keys <= LAST_KEY)
    keys, first = keys[allowed], first[allowed]
    return pa.table({"item": pa.array(keys, pa.int64()), "id": ids.take(pa.array(first)).cast(pa.string())})


def read_availability(config: PrepareConfig, keys: Keys) -> AvailabilityColumns:
    """Return when each item is available; an item without a row, or a row without a value, has no bound.

    The unit of the log must be known here, and not be `auto`.

    Raises:
        DatasetError: A file is missing, torn or lacks a column; more than `max_rejected_fraction` of the items have a
            value that is no time, or end before they start.
    """
    sources = {"available_from": config.items.available_from, "available_until": config.items.available_until}
    if not (config.items.paths and config.items.has_availability):
        return AvailabilityColumns({})
    raw = _read(config, {name: column for name, column in sources.items() if column})
    rows = rows_of(raw["id"], config.id_type, keys)
    columns, bad = {}, np.zeros(len(keys), dtype=np.bool_)
    for name, limit in AVAILABILITY_LIMITS.items():
        values = raw[name].take(rows) if name in raw else pa.nulls(len(keys), pa.string())
        times = parse_times(values, config.items.available_unit or config.log.time_unit)
        bad_here = _present(values) & np.asarray(_is_no_bound(name, times))
        _check_times(config, sources[name], values.filter(pa.array(bad_here)), len(keys))
        columns[name] = pc.if_else(pa.array(bad_here), None, times).fill_null(limit)
        bad |= bad_here
    _check_order(config, *columns.values())
    return AvailabilityColumns(columns, int(bad.sum()))


def _is_no_bound(name: str, times: pa.Array) -> pa.Array:
    wrong = pc.less(times, 0)
    if name == AVAILABLE_FROM:
        wrong = pc.or_(wrong, pc.greater(times, _LATEST_START_MS))
    return wrong.fill_null(True)


def _read(config: PrepareConfig, columns: dict[str, str]) -> dict[str, pa.Array]:
    """Return columns of the metadata, and the ids as `id`."""
    table = read_all(config.items, {"id": config.items.id_column or config.log.item_column, **columns})
    return {name: plain(table[name].combine_chunks()) for name in table.column_names}


def _present(values: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell where there is a value: neither null nor an empty text."""
    if pa.types.is_string(values.type):
        values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), None, values)
    return np.asarray(values.is_valid())


def _check_times(config: PrepareConfig, column: str, bad: pa.Array, num_items: int) -> None:
    if len(bad) > config.max_rejected_fraction * num_items:
        unit = config.items.available_unit or config.log.time_unit
        problem = f"{len(bad)} of {num_items} values of {column} are no times of that kind in the unit {unit}, such as {bad[0]}"
        raise DatasetError(", ".join(config.items.paths), f"{problem}: set items.available_unit")


def _check_order(config: PrepareConfig, from_ms: pa.Array, until_ms: pa.Array) -> None:
    """Check that not many items end before they start, as all do where the two columns are mixed up."""
    num_never = pc.sum(pc.less_equal(until_ms, from_ms)).as_py() or 0
    if num_never > config.max_rejected_fraction * len(from_ms):
        problem = (
            f"{num_never} of {len(from_ms)} items are never available, {config.items.available_until} being before"
        )
        raise DatasetError(", ".join(config.items.paths), f"{problem} {config.items.available_from}")
