"""Columns of any type → integers and reals."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.dataset.numbers import parse_integers, parse_reals

LIMIT = 1 << 63


@given(st.lists(st.one_of(st.integers(-LIMIT * 3, LIMIT * 3).map(str), st.text(max_size=5), st.none())))
def test_texts_are_integers_when_python_says_so_and_int64_holds_them(texts: list[str | None]) -> None:
    def expected(text: str | None) -> int | None:
        digits = (text or "").removeprefix("-")
        plain = digits.isascii() and digits.isdecimal() and len(digits) <= 19
        return int(text) if text and plain and -LIMIT <= int(text) < LIMIT else None

    assert parse_integers(pa.array(texts, pa.string())).to_pylist() == [expected(text) for text in texts]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, LIMIT - 1, LIMIT, None], pa.uint64(), [1, LIMIT - 1, None, None]),
        ([1.0, 2.5, 1e300, -3.0], pa.float64(), [1, None, None, -3]),
        ([7, None], pa.int16(), [7, None]),
        ([True, False], pa.bool_(), [None, None]),
        ([Decimal(12), Decimal(10**30), None], pa.decimal128(38, 0), [12, None, None]),
        ([Decimal("12.00"), Decimal("12.50")], pa.decimal128(10, 2), [12, None]),
    ],
)
def test_numbers_are_ids_when_whole_and_in_range(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    assert parse_integers(pa.array(values, kind)).to_pylist() == expected


def test_reals_are_numbers_in_any_form() -> None:
    assert parse_reals(pa.array(["1", "2.5", "x", None, "1e3"])).to_pylist() == [1.0, 2.5, None, None, None]
    assert parse_reals(pa.array([1, 2])).to_pylist() == [1.0, 2.0]
    assert parse_reals(pa.array([True])).to_pylist() == [None]
    assert parse_reals(pa.array([Decimal("34.5")], pa.decimal128(5, 1))).to_pylist() == [34.5]


def test_a_comma_before_the_fraction_is_read_when_it_is_set() -> None:
    texts = pa.array(["1,50", "1.234,50", "1.234.567", "-7", "1.23,4", "1.5", "x", None])
    assert parse_reals(texts, ",").to_pylist() == [1.5, 1234.5, 1234567.0, -7.0, None, None, None, None]
    assert parse_reals(pa.array(["1,50"])).to_pylist() == [None]
