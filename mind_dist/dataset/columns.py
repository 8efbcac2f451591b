"""A metadata column of any type → values the dataset can keep and Milvus can store, and what was lost on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.dataset.numbers import INT64_LIMITS, parse_reals
from mind_dist.dataset.raw_log import plain
from mind_dist.dataset.times import parse_times
from mind_dist.errors import DatasetError
from mind_dist.limits import MAX_TEXT_BYTES, MAX_TEXTS

ColumnKind = Literal["category", "categories", "words", "buckets", "continuous", "display"]
"""What a column is used for: a feature of a kind, or display and filters alone."""


@dataclass(frozen=True)
class Values:
    """The N values of a column.

    Attributes:
        values: Integers, reals, texts or lists of texts; null, "" or an empty list where one is missing.
        unusable: Where there was a value that is none of the wanted kind, [N]; it counts as missing.
        num_cut: Values that were too long for Milvus, and are cut.
    """

    values: pa.Array
    unusable: NDArray[np.bool_]
    num_cut: int = 0


def read_column(
    raw: pa.Array, kind: ColumnKind, name: str, separator: str = "|", decimal: Literal[".", ","] = "."
) -> Values:
    """Return the values of a column.

    Times become milliseconds where they are read as numbers, and texts elsewhere; decimals become numbers.

    Args:
        raw: The column as it stands in the files.
        kind: What it is used for.
        name: Its name in the files, for messages.
        separator: Between the parts of a text that becomes a list.
        decimal: Before the fraction of a number that stands as text.

    Raises:
        DatasetError: The type of the column cannot be used so.
    """
    values = plain(raw)
    if kind in ("buckets", "continuous"):
        return _numbers(values, name, decimal)
    if _is_list(values.type):
        return _texts_of_lists(values, kind, name)
    values = _simple(values, name)
    if kind == "categories":
        return _cut_lists(_split(values, separator))
    return _cut_texts(values)


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _numbers(values: pa.Array, name: str, decimal: Literal[".", ","]) -> Values:
    kind = values.type
    if _is_list(kind) or pa.types.is_nested(kind):
        raise _wrong_type(name, kind, "buckets and continuous features are made of numbers or times")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Values(parse_times(values, "ms"), np.zeros(len(values), np.bool_))
    numbers = parse_reals(values, decimal)
    if pa.types.is_string(kind):
        values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), None, values)
        numbers = pc.coalesce(numbers, parse_times(values, "iso").cast(pa.float64(), safe=False))
    numbers = pc.if_else(pc.is_finite(numbers), numbers, None)
    unusable = pc.and_(values.is_valid(), numbers.is_null())
    return Values(numbers, np.asarray(unusable, dtype=np.bool_))


def _simple(values: pa.Array, name: str) -> pa.Array:
    """Return one value each: integers, reals or texts."""
    kind = values.type
    if pa.types.is_uint64(kind):
        return _int64(values, name)
    if pa.types.is_decimal(kind):
        whole = kind.scale <= 0
        return _int64(values, name) if whole else values.cast(pa.float64(), safe=False)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException as error:
        raise _wrong_type(name, kind, "write it as text, number or list of texts") from error


def _int64(values: pa.Array, name: str) -> pa.Array:
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        largest = pc.max(values).as_py()
        problem = f"has {largest}, above the largest int64 {INT64_LIMITS[1]}: write it as text"
        raise DatasetError(f"column {name}", problem) from error


def _texts_of_lists(values: pa.Array, kind: ColumnKind, name: str) -> Values:
    if kind in ("category", "words"):
        raise _wrong_type(name, values.type, "set its kind to categories")
    try:
        lists = values.cast(pa.list_(pa.string()))
    except pa.ArrowException as error:
        raise _wrong_type(name, values.type, "write it as a list of texts") from error
    return _cut_lists([[text.strip() for text in row or () if text] for row in lists.to_pylist()])


def _wrong_type(name: str, kind: pa.DataType, advice: str) -> DatasetError:
    return DatasetError(f"column {name}", f"has the type {kind}, which cannot be used here: {advice}")


def _split(values: pa.Array, separator: str) -> list[list[str]]:
    texts = values.cast(pa.string()).to_pylist()
    return [[part.strip() for part in (text or "").split(separator)] for text in texts]


def _cut_lists(rows: list[list[str]]) -> Values:
    """Leave out empty texts, and cut lists and texts that are too long."""
    lists = [[text for text in row if text] for row in rows]
    kept = [[_cut(text) for text in row[:MAX_TEXTS]] for row in lists]
    num_cut = sum(row != whole for row, whole in zip(kept, lists, strict=True))
    return Values(pa.array(kept, pa.list_(pa.string())), np.zeros(len(rows), np.bool_), num_cut)


def _cut_texts(values: pa.Array) -> Values:
    nothing = np.zeros(len(values), np.bool_)
    if not pa.types.is_string(values.type):
        return Values(values, nothing)
    too_long = pc.greater(pc.binary_length(values), MAX_TEXT_BYTES).fill_null(False)
    num_cut = int(pc.sum(too_long).as_py() or 0)
    if num_cut:
        cut = pa.array([_cut(text) for text in values.filter(too_long).to_pylist()], pa.string())
        values = pc.replace_with_mask(values, too_long, cut)
    return Values(values, nothing, num_cut)


def _cut(text: str) -> str:
    """Return the beginning of a text that fits into a column; a character is kept whole or not at all."""
    if len(text) * 4 <= MAX_TEXT_BYTES:
        return text
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
