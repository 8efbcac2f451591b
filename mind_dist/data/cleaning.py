"""Raw rows → events with keys, and rejected rows with reasons; vectorised, nothing row by row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import LogConfig
from mind_dist.data.codec import IdType, fingerprint
from mind_dist.data.raw_log import RawBatch
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

_INT64_LIMITS = (-(1 << 63), (1 << 63) - 1)
_EXACT_FLOAT = 1 << 53
_MS_PER_UNIT = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_INTEGER = r"^-?[0-9]{1,19}$"
_REAL = r"^-?[0-9]+\.[0-9]*$"


def clean(batch: RawBatch, log: LogConfig, id_type: IdType, file: str) -> tuple[pa.Table, pa.Table]:
    """Return the usable rows and the rejected ones (`REJECTED_SCHEMA`).

    Usable rows have `user` and `item` as outside ids (int64 or string), `timestamp_ms`, and `row`, their place in the
    batch. Rows of other event types are in neither.
    """
    raw = _of_types(_numbered(batch.table), log)
    parsed = {
        "user": parse_ids(raw["user"], id_type),
        "item": parse_ids(raw["item"], id_type),
        "timestamp": parse_times(raw["timestamp"], log.time_unit),
    }
    reasons = _reasons(raw, parsed)
    usable = pc.is_null(reasons)
    columns = [parsed["user"], parsed["item"], parsed["timestamp"], raw["row"]]
    events = pa.table(columns, names=["user", "item", "timestamp_ms", "row"]).filter(usable)
    return events, _rejected(raw, reasons, batch.malformed, file)


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
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return pa.nulls(len(column), pa.string())
    texts = column.cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def parse_integers(column: pa.Array) -> pa.Array:
    """Return values as int64; null where a value is not a whole number of that range."""
    kind = column.type
    if pa.types.is_string(kind):
        digits = pc.if_else(pc.match_substring_regex(column, _INTEGER), column, None)
        return _int64_or_null(digits.cast(pa.decimal128(19)))
    if pa.types.is_uint64(kind):
        return _int64_or_null(column.cast(pa.decimal128(20)))
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), float(_EXACT_FLOAT)))
        return pc.if_else(whole, column, None).cast(pa.int64())
    return column.cast(pa.int64()) if pa.types.is_integer(kind) else pa.nulls(len(column), pa.int64())


def _int64_or_null(wide: pa.Array) -> pa.Array:
    low, high = (pa.scalar(limit, wide.type) for limit in _INT64_LIMITS)
    fits = pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high))
    return pc.if_else(fits, wide, None).cast(pa.int64())


def parse_times(column: pa.Array, unit: str) -> pa.Array:
    """Return times as int64 milliseconds; null where a value is no time in this unit.

    Arrow's own times and dates mean what their type says, whatever the unit.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if unit == "iso":
        return _iso_times(column)
    factor, divisor = _MS_PER_UNIT[unit]
    whole = _scale_integers(parse_integers(column), factor, divisor)
    return pc.coalesce(whole, _scale_reals(parse_reals(column), factor / divisor))


def parse_reals(column: pa.Array) -> pa.Array:
    """Return values as float64; null where a value is no number."""
    if pa.types.is_string(column.type):
        either = pc.or_(pc.match_substring_regex(column, _REAL), pc.match_substring_regex(column, _INTEGER))
        return pc.if_else(either, column, None).cast(pa.float64())
    numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    return column.cast(pa.float64(), safe=False) if numeric else pa.nulls(len(column), pa.float64())


def _scale_integers(values: pa.Array, factor: int, divisor: int) -> pa.Array:
    values = pc.max_element_wise(values, -1, skip_nulls=False)  # all negative times are one: refused
    fits = pc.less_equal(values, _INT64_LIMITS[1] // factor)
    rounded_down = np.asarray(pc.if_else(fits, values, 0).fill_null(0)) // divisor
    return pa.array(rounded_down * factor, mask=np.asarray(pc.invert(fits.fill_null(False))))


def _scale_reals(values: pa.Array, factor: float) -> pa.Array:
    scaled = pc.round(pc.multiply(values, factor))
    fits = pc.less_equal(pc.abs(scaled), float(_EXACT_FLOAT))
    return pc.if_else(fits, scaled, None).cast(pa.int64())


def _iso_times(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return pa.nulls(len(column), pa.int64())
    try:
        return column.cast(pa.timestamp("ms")).cast(pa.int64())
    except pa.ArrowInvalid:  # a zone, finer fractions, or something that is no time: value by value
        return pa.array([_iso_time(text) for text in column.to_pylist()], pa.int64())


def _iso_time(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    since_epoch = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000 + since_epoch.microseconds // 1_000


def _numbered(table: pa.Table) -> pa.Table:
    """Return the table with plain values and the number of each row."""
    columns = {name: plain(table[name].combine_chunks()) for name in table.column_names}
    return pa.table({**columns, "row": pa.array(np.arange(table.num_rows), pa.int64())})


def plain(values: pa.Array) -> pa.Array:
    """Return any kind of text as string, dictionaries as their values, NaN as null."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        return values.cast(pa.string())
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_nan(values), None, values)
    return values


def _of_types(raw: pa.Table, log: LogConfig) -> dict[str, pa.Array]:
    if log.event_types:
        types = raw["event_type"].cast(pa.string())
        raw = raw.filter(pc.is_in(types, value_set=pa.array(log.event_types, pa.string())))
    return {name: raw[name].combine_chunks() for name in raw.column_names}


def _reasons(raw: dict[str, pa.Array], parsed: dict[str, pa.Array]) -> pa.Array:
    """Return the first reason against each row; null where there is none."""
    conditions, names = [], []
    for name, values in parsed.items():
        conditions += [pc.is_null(raw[name]), pc.is_null(values)]
        names += [f"{name}_null", f"{name}_type"]
    conditions.append(pc.less(parsed["timestamp"].fill_null(0), 0))
    names.append("timestamp_negative")
    struct = pc.make_struct(*conditions, field_names=[str(place) for place in range(len(conditions))])
    return pc.case_when(struct, *(pa.scalar(name) for name in names))


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
