"""Metadata columns of any type → values the dataset keeps."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from mind_dist.dataset.columns import ColumnKind, read_column
from mind_dist.errors import DatasetError

DAY_MS = 86_400_000
TEXTS = pa.list_(pa.string())


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([Decimal("1.50"), None], pa.decimal128(10, 2), [1.5, None]),
        ([Decimal("1.50"), None], pa.decimal256(10, 2), [1.5, None]),
        ([Decimal(34)], pa.decimal128(38, 0), [34.0]),
        ([date(1970, 1, 2)], pa.date32(), [DAY_MS]),
        ([datetime(1970, 1, 2, tzinfo=UTC)], pa.timestamp("us", "UTC"), [DAY_MS]),
        (["1.5", "34", "", None], pa.string(), [1.5, 34.0, None, None]),
        (["1970-01-02", "1970-01-02 00:00:00 UTC"], pa.string(), [DAY_MS, DAY_MS]),
        ([b"1.5"], pa.binary(), [1.5]),
        ([1, 2], pa.uint64(), [1.0, 2.0]),
    ],
)
def test_numbers_and_times_of_any_type_can_be_cut_into_buckets(
    values: list[Any], kind: pa.DataType, expected: list[Any]
) -> None:
    column = read_column(pa.array(values, kind), "buckets", "c")
    assert column.values.to_pylist() == expected
    assert not column.unusable.any()


def test_decimal_commas_are_read_when_set_and_unusable_otherwise() -> None:
    raw = pa.array(["1,50", "2", "", None])
    assert read_column(raw, "buckets", "price", decimal=",").values.to_pylist() == [1.5, 2.0, None, None]
    column = read_column(raw, "buckets", "price")
    assert column.values.to_pylist() == [None, 2.0, None, None]
    assert column.unusable.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "kind", [TEXTS, pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.string_view())]
)
def test_lists_are_categories(kind: pa.DataType) -> None:
    raw = pa.array([["a", " b "], None, ["", None]], kind)
    column = read_column(raw, "categories", "tags")
    assert (column.values.type, column.values.to_pylist()) == (TEXTS, [["a", "b"], [], []])


def test_lists_of_numbers_are_categories_of_their_texts() -> None:
    assert read_column(pa.array([[1, 2]]), "categories", "c").values.to_pylist() == [["1", "2"]]
    assert read_column(pa.array([[1, 2]]), "display", "c").values.to_pylist() == [["1", "2"]]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([Decimal("1.50"), None], pa.decimal128(10, 2), [1.5, None]),
        ([Decimal(7)], pa.decimal128(38, 0), [7]),
        ([date(2024, 1, 2)], pa.date32(), ["2024-01-02"]),
        ([True, None], pa.bool_(), ["true", None]),
        ([5], pa.uint64(), [5]),
        ([b"red"], pa.large_binary(), ["red"]),
        (["red"], pa.dictionary(pa.int8(), pa.string()), ["red"]),
        ([None, None], pa.null(), [None, None]),
    ],
)
@pytest.mark.parametrize("use", ["category", "display"])
def test_one_value_of_any_type_is_kept(
    values: list[Any], kind: pa.DataType, expected: list[Any], use: ColumnKind
) -> None:
    assert read_column(pa.array(values, kind), use, "c").values.to_pylist() == expected


@pytest.mark.parametrize(
    ("raw", "use", "problem"),
    [
        (pa.array([{"a": 1}]), "category", r"column c: has the type struct<a: int64>, .*: write it as text"),
        (pa.array([{"a": 1}]), "display", "has the type struct"),
        (pa.array([{"a": 1}]), "buckets", "are made of numbers or times"),
        (pa.array([{"a": 1}]), "categories", "has the type struct"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "display", "has the type map"),
        (pa.array([[{"a": 1}]]), "categories", "write it as a list of texts"),
        (pa.array([["a"]]), "category", "set its kind to categories"),
        (pa.array([[1]]), "buckets", "are made of numbers or times"),
        (pa.array([2**63 + 5], pa.uint64()), "category", f"has {2**63 + 5}, above the largest int64 {2**63 - 1}"),
        (pa.array([Decimal(10**30)], pa.decimal128(38, 0)), "display", "above the largest int64"),
    ],
)
def test_a_type_that_cannot_be_used_names_the_column(raw: pa.Array, use: ColumnKind, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem) as stopped:
        read_column(raw, use, "c")
    assert str(stopped.value).startswith("column c: ")
    assert "\n" not in str(stopped.value)


def test_texts_too_long_for_milvus_are_cut_at_a_whole_character() -> None:
    column = read_column(pa.array(["é" * 40_000, "short", None]), "display", "c")
    cut, short, missing = column.values.to_pylist()
    assert (len(cut.encode()), short, missing) == (65_534, "short", None)
    assert column.num_cut == 1


def test_lists_too_long_for_milvus_are_cut() -> None:
    column = read_column(pa.array([[str(n) for n in range(5_000)], ["x" * 70_000], ["a"]]), "categories", "c")
    many, long, short = column.values.to_pylist()
    assert (len(many), len(long[0]), short) == (4_096, 65_535, ["a"])
    assert column.num_cut == 2
    texts = read_column(pa.array([" ".join(str(n) for n in range(5_000))]), "categories", "c", " ")
    assert (len(texts.values[0].as_py()), texts.num_cut) == (4_096, 1)
