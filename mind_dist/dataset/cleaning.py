"""Raw rows → events with keys, and rejected rows with reasons; vectorised, nothing row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import LogConfig
from mind_dist.dataset.event_values import values_column
from mind_dist.dataset.numbers import parse_integers
from mind_dist.dataset.raw_log import RawBatch, plain
from mind_dist.dataset.times import FIRST_MS, Times, parse_times
from mind_dist.errors import DatasetError
from mind_dist.keys import DEFAULT_TYPE, IdType, fingerprint, is_json_string
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.records import Keys

REJECTED_SCHEMA = pa.schema(
    [
        ("reason", pa.string()),
        ("file", pa.string()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("timestamp", pa.string()),
        ("line", pa.string()),
    ]
)
"""An unusable row: why, where, and what stood there (`line` of a CSV line that could not be told into values)."""

_SHOWN_CHARACTERS = 80


def clean(batch: RawBatch, log: LogConfig, id_type: IdType, times: Times, file: str) -> tuple[pa.Table, pa.Table]:
    """Return the usable rows and the rejected ones (`REJECTED_SCHEMA`).

    Usable rows have `user` and `item` as outside ids (int64 or string), `timestamp_ms`, and `row`, their place in the
    batch; and the texts of each feature of events, null where missing. Rows of other event types are in neither.

    Raises:
        DatasetError: A feature of events is neither of texts nor of integers or booleans.
    """
    raw = _of_types(_numbered(batch.table), log)
    parsed = {
        "user": parse_ids(raw["user"], id_type),
        "item": parse_ids(raw["item"], id_type),
        "timestamp": parse_times(raw["timestamp"], times.unit),
    }
    reasons = _reasons(raw, parsed, times)
    usable = pc.is_null(reasons)
    columns = [parsed["user"], parsed["item"], parsed["timestamp"], raw["row"]]
    events = pa.table(columns, names=["user", "item", "timestamp_ms", "row"])
    for name in log.value_names:
        events = events.append_column(values_column(name), _values(raw, name))
    events = events.filter(usable)
    return events, _rejected(raw, reasons, batch.malformed, file)


def by_reason(rejected: pa.Table) -> dict[str, tuple[int, str]]:
    """Return how many rows each reason rejects, and the value of one of them; "" where the value is missing."""
    found = {}
    for reason in rejected["reason"].unique().to_pylist():
        rows = rejected.filter(pc.equal(rejected["reason"], reason))
        column = reason.partition("_")[0]
        value = rows[column if column in rows.column_names else "line"][0].as_py() or ""
        found[reason] = (rows.num_rows, value[:_SHOWN_CHARACTERS])
    return found


def keys_of(ids: pa.ChunkedArray) -> Keys:
    """Return the keys of outside ids: int64 as they are, texts as their fingerprints, each distinct one once."""
    if pa.types.is_integer(ids.type):
        return np.asarray(ids.to_numpy(), dtype=np.int64)
    encoded = ids.combine_chunks().dictionary_encode()
    fingerprints = np.array([fingerprint(text) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    return fingerprints[np.asarray(encoded.indices, dtype=np.int64)]


def parse_ids(column: pa.Array, id_type: IdType) -> pa.Array:
    """Return ids as int64 or string; null where a value is no such id."""
    if id_type == "int64":
        return parse_integers(column)
    if pa.types.is_decimal(column.type):
        column = parse_integers(column)
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return pa.nulls(len(column), pa.string())
    texts = column.cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _numbered(table: pa.Table) -> pa.Table:
    """Return the table with plain values and the number of each row."""
    columns = {name: plain(table[name].combine_chunks()) for name in table.column_names}
    return pa.table({**columns, "row": pa.array(np.arange(table.num_rows), pa.int64())})


def _of_types(raw: pa.Table, log: LogConfig) -> dict[str, pa.Array]:
    if log.event_types:
        types = raw["event_type"].cast(pa.string())
        raw = raw.filter(pc.is_in(types, value_set=pa.array(log.event_types, pa.string())))
    return {name: raw[name].combine_chunks() for name in raw.column_names}


def _values(raw: dict[str, pa.Array], name: str) -> pa.Array:
    """Return the texts of a feature of events, as a context has them; an unknown type is what a replay makes of it."""
    column = _whole(raw["event_type" if name == "event_type" else values_column(name)])
    kind = column.type
    if not (
        pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    ):
        raise DatasetError(f"column {name}", f"is of type {kind}: features of events are texts, integers or booleans")
    texts = column.cast(pa.string())
    texts = texts.fill_null(DEFAULT_TYPE) if name == "event_type" else texts
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _whole(column: pa.Array) -> pa.Array:
    """Return real numbers that are all whole as integers: what a column of integers becomes where some are missing."""
    if not pa.types.is_floating(column.type):
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column


def _reasons(raw: dict[str, pa.Array], parsed: dict[str, pa.Array], times: Times) -> pa.Array:
    """Return the first reason against each row; null where there is none."""
    conditions: dict[str, pa.Array] = {}
    for name, values in parsed.items():
        conditions |= {f"{name}_null": pc.is_null(raw[name]), f"{name}_type": pc.is_null(values)}
        if name != "timestamp" and pa.types.is_integer(values.type):
            conditions[f"{name}_reserved"] = _outside(values, FIRST_KEY, LAST_KEY)
        elif name == "user":
            conditions["user_reserved"] = _in_json_quotes(values)
    conditions |= _time_bounds(parsed["timestamp"], times)
    struct = pc.make_struct(*conditions.values(), field_names=list(conditions))
    return pc.case_when(struct, *(pa.scalar(name) for name in conditions))


def _outside(values: pa.Array, first: int, last: int) -> pa.Array:
    return pc.or_(pc.less(values, first), pc.greater(values, last)).fill_null(False)


def _in_json_quotes(texts: pa.Array) -> pa.Array:
    """Tell which texts are JSON strings: no event of a user with such an id would be taken from Kafka."""
    quoted = pc.and_(pc.starts_with(texts, '"'), pc.ends_with(texts, '"')).fill_null(False)
    if not pc.any(quoted).as_py():
        return quoted
    found = [is_json_string(text) for text in texts.filter(quoted).to_pylist()]
    return pc.replace_with_mask(quoted, quoted, pa.array(found, pa.bool_()))


def _time_bounds(values: pa.Array, times: Times) -> dict[str, pa.Array]:
    if times.are_positions:
        return {"timestamp_negative": pc.less(values, 0).fill_null(False)}
    return {
        "timestamp_past": pc.less(values, FIRST_MS).fill_null(False),
        "timestamp_future": pc.greater(values, times.last_ms).fill_null(False),
    }


def _rejected(raw: dict[str, pa.Array], reasons: pa.Array, malformed: Sequence[str], file: str) -> pa.Table:
    bad = pc.is_valid(reasons)
    values = {name: _as_text(raw[name].filter(bad)) for name in ("user", "item", "timestamp")}
    num_bad = len(values["user"])
    rows = {"reason": reasons.filter(bad), "file": pa.array([file] * num_bad, pa.string()), **values}
    rows["line"] = pa.nulls(num_bad, pa.string())
    lines = [{"reason": "malformed_line", "file": file, "line": line} for line in malformed]
    return pa.concat_tables([pa.table(rows, REJECTED_SCHEMA), pa.Table.from_pylist(lines, REJECTED_SCHEMA)])


def _as_text(values: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
