"""Raw rows → events and rejects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.config import LogConfig
from mind_dist.data.cleaning import clean, keys_of, parse_ids, parse_integers, parse_reals, parse_times
from mind_dist.data.codec import fingerprint
from mind_dist.data.raw_log import RawBatch

LIMIT = 1 << 63


def table(**columns: Any) -> RawBatch:
    return RawBatch(pa.table(columns))


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
    ],
)
def test_numbers_are_ids_when_whole_and_in_range(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    assert parse_integers(pa.array(values, kind)).to_pylist() == expected


def test_string_ids_are_texts_and_whole_numbers_but_not_empty() -> None:
    assert parse_ids(pa.array(["a", "", None]), "string").to_pylist() == ["a", None, None]
    assert parse_ids(pa.array([12, None]), "string").to_pylist() == ["12", None]
    assert parse_ids(pa.array([1.5]), "string").to_pylist() == [None]


def test_reals_are_numbers_in_any_form() -> None:
    assert parse_reals(pa.array(["1", "2.5", "x", None, "1e3"])).to_pylist() == [1.0, 2.5, None, None, None]
    assert parse_reals(pa.array([1, 2])).to_pylist() == [1.0, 2.0]
    assert parse_reals(pa.array([True])).to_pylist() == [None]


def test_keys_of_texts_are_their_fingerprints() -> None:
    texts = pa.chunked_array([["b", "a"], ["b"]])
    assert keys_of(texts).tolist() == [fingerprint("b"), fingerprint("a"), fingerprint("b")]
    assert keys_of(pa.chunked_array([pa.array([5, -1])])).tolist() == [5, -1]


@pytest.mark.parametrize(("unit", "value"), [("s", 12), ("ms", 12_345), ("us", 12_345_678), ("ns", 12_345_678_901)])
def test_numbers_are_times_in_the_unit(unit: str, value: int) -> None:
    expected = 12_000 if unit == "s" else 12_345
    texts, numbers = pa.array([str(value), "x", None]), pa.array([value, -value, None])
    assert parse_times(texts, unit).to_pylist() == [expected, None, None]
    assert parse_times(numbers, unit).to_pylist()[0] == expected
    assert parse_times(numbers, unit).to_pylist()[1] < 0


def test_fractions_of_seconds_are_kept_to_the_millisecond() -> None:
    assert parse_times(pa.array([1.001, 1e300]), "s").to_pylist() == [1001, None]
    assert parse_times(pa.array(["2.5"]), "s").to_pylist() == [2500]


def test_a_time_too_large_for_milliseconds_is_no_time() -> None:
    assert parse_times(pa.array([LIMIT - 1, -LIMIT]), "s").to_pylist() == [None, -1000]


def test_iso_texts_are_times_with_and_without_a_zone() -> None:
    texts = ["2024-01-01T00:00:00Z", "2024-01-01T02:00:00+02:00", "2024-01-01", "2024-13-01", None]
    noon = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert parse_times(pa.array(texts), "iso").to_pylist() == [noon, noon, noon, None, None]
    assert parse_times(pa.array(["2024-01-01 00:00:00"]), "iso").to_pylist() == [noon]
    assert parse_times(pa.array([1]), "iso").to_pylist() == [None]


def test_the_types_of_arrow_say_what_a_time_is() -> None:
    moment = datetime(2024, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    expected = [int(moment.timestamp() * 1000)]
    assert parse_times(pa.array([moment], pa.timestamp("us", "UTC")), "s").to_pylist() == expected
    assert parse_times(pa.array([moment.date()]), "s").to_pylist() == [expected[0] - 1500]


def test_each_unusable_row_is_rejected_with_its_first_reason_and_values() -> None:
    raw = table(
        user=["1", None, "x", "4", "5", "6", "7", "8"],
        item=["1", None, "2", None, "y", "6", "7", "8"],
        timestamp=["1", "x", "3", "4", "5", None, "soon", "-1"],
    )
    events, rejected = clean(raw, LogConfig(), "int64", "log.csv")
    assert events.to_pylist() == [{"user": 1, "item": 1, "timestamp_ms": 1000, "row": 0}]
    reasons = ["user_null", "user_type", "item_null", "item_type"]
    assert rejected["reason"].to_pylist() == [*reasons, "timestamp_null", "timestamp_type", "timestamp_negative"]
    assert rejected.slice(1, 1).to_pylist() == [
        {"reason": "user_type", "file": "log.csv", "user": "x", "item": "2", "timestamp": "3", "line": None}
    ]


def test_malformed_lines_are_rejected_whole() -> None:
    batch = RawBatch(pa.table({"user": ["1"], "item": ["2"], "timestamp": ["3"]}), ("1,2",))
    events, rejected = clean(batch, LogConfig(), "int64", "log.csv")
    assert events.num_rows == 1
    assert [(row["reason"], row["line"]) for row in rejected.to_pylist()] == [("malformed_line", "1,2")]


def test_rows_of_other_event_types_are_left_out_and_not_rejected() -> None:
    log = LogConfig(event_type_column="kind", event_types=("buy",))
    raw = table(user=[1, 2, 3, 4], item=[1, 2, 3, 4], timestamp=[1, 2, 3, -4], event_type=["buy", "view", None, "view"])
    events, rejected = clean(raw, log, "int64", "log")
    assert events["user"].to_pylist() == [1]
    assert rejected.num_rows == 0


def test_nan_is_missing_and_any_kind_of_text_is_text() -> None:
    raw = table(
        user=pa.array([1.0, float("nan")]),
        item=pa.array(["1", "1"]).dictionary_encode(),
        timestamp=pa.array(["5", "6"], pa.large_string()),
    )
    events, rejected = clean(raw, LogConfig(), "int64", "log")
    assert events.num_rows == 1
    assert rejected["reason"].to_pylist() == ["user_null"]


def test_an_empty_batch_is_no_events() -> None:
    raw = table(user=pa.array([], pa.string()), item=pa.array([], pa.int64()), timestamp=pa.array([], pa.float64()))
    events, rejected = clean(raw, LogConfig(), "string", "log")
    assert events.num_rows == rejected.num_rows == 0
    assert np.array_equal(keys_of(events["user"]), [])
