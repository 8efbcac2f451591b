"""Columns of any type → integers and reals; vectorised, null where a value is none."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pyarrow import compute as pc

INT64_LIMITS = (-(1 << 63), (1 << 63) - 1)
EXACT_FLOAT = 1 << 53
"""Up to here every integer is a float64 of its own."""

_INTEGER = r"^-?[0-9]{1,19}$"
_REAL = r"^-?[0-9]+\.[0-9]*$"
_COMMA_REAL = r"^-?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]*)?$"


def parse_integers(column: pa.Array) -> pa.Array:
    """Return values as int64; null where a value is not a whole number of that range."""
    kind = column.type
    if pa.types.is_string(kind):
        digits = pc.if_else(pc.match_substring_regex(column, _INTEGER), column, None)
        return _int64_or_null(digits.cast(pa.decimal128(19)))
    if pa.types.is_decimal(kind):
        return _int64_or_null(pc.if_else(pc.equal(pc.floor(column), column), column, None))
    if pa.types.is_uint64(kind):
        return _int64_or_null(column.cast(pa.decimal128(20)))
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), float(EXACT_FLOAT)))
        return pc.if_else(whole, column, None).cast(pa.int64())
    return column.cast(pa.int64()) if pa.types.is_integer(kind) else pa.nulls(len(column), pa.int64())


def _int64_or_null(wide: pa.Array) -> pa.Array:
    low, high = (pa.scalar(limit, pa.decimal128(20)) for limit in INT64_LIMITS)
    fits = pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high))
    return pc.if_else(fits, wide, None).cast(pa.int64())


def parse_reals(column: pa.Array, decimal: Literal[".", ","] = ".") -> pa.Array:
    """Return values as float64; null where a value is no number.

    Args:
        column: Numbers of any type, or texts.
        decimal: What stands before the fraction of a text; with `,` a point may separate thousands.
    """
    kind = column.type
    if pa.types.is_string(kind):
        return _real_texts(column, decimal)
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return column.cast(pa.float64(), safe=False) if numeric else pa.nulls(len(column), pa.float64())


def _real_texts(column: pa.Array, decimal: str) -> pa.Array:
    if decimal == ",":
        column = pc.if_else(pc.match_substring_regex(column, _COMMA_REAL), column, None)
        return pc.replace_substring(pc.replace_substring(column, ".", ""), ",", ".").cast(pa.float64())
    either = pc.or_(pc.match_substring_regex(column, _REAL), pc.match_substring_regex(column, _INTEGER))
    return pc.if_else(either, column, None).cast(pa.float64())
