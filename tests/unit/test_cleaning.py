"""Raw rows → events and rejects."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mind_dist.config import LogConfig
from mind_dist.dataset.cleaning import by_reason, clean, keys_of, parse_ids
from mind_dist.dataset.raw_log import RawBatch
from mind_dist.dataset.times import Times
from mind_dist.errors import DatasetError
from mind_dist.keys import fingerprint

SECONDS = Times("s", 1_750_000_000_000)


def table(**columns: Any) -> RawBatch:
    return RawBatch(pa.table(columns))


def test_string_ids_are_texts_and_whole_numbers_but_not_empty() -> None:
    assert parse_ids(pa.array(["a", "", None]), "string").to_pylist() == ["a", None, None]
    assert parse_ids(pa.array([12, None]), "string").to_pylist() == ["12", None]
    assert parse_ids(pa.array([1.5]), "string").to_pylist() == [None]
    assert parse_ids(pa.array([Decimal(12), Decimal(10**30)], pa.decimal128(38, 0)), "string").to_pylist() == [
        "12",
        None,
    ]
    assert parse_ids(pa.array([2**63 + 5], pa.uint64()), "string").to_pylist() == [str(2**63 + 5)]


def test_keys_of_texts_are_their_fingerprints() -> None:
    texts = pa.chunked_array([["b", "a"], ["b"]])
    assert keys_of(texts).tolist() == [fingerprint("b"), fingerprint("a"), fingerprint("b")]
    assert keys_of(pa.chunked_array([pa.array([5, -1])])).tolist() == [5, -1]


def test_each_unusable_row_is_rejected_with_its_first_reason_and_values() -> None:
    raw = table(
        user=["1", None, "x", "4", "5", "6", "7", "8", "9", str(2**63 - 1), "11"],
        item=["1", None, "2", None, "y", "6", "7", "8", "9", "10", str(-(2**63))],
        timestamp=["1700000000", "x", "3", "4", "5", None, "soon", "-1", "1760000000000", "1700000000", "1700000000"],
    )
    events, rejected = clean(raw, LogConfig(), "int64", SECONDS, "log.csv")
    assert events.to_pylist() == [{"user": 1, "item": 1, "timestamp_ms": 1_700_000_000_000, "row": 0}]
    assert rejected["reason"].to_pylist() == [
        *("user_null", "user_type", "item_null", "item_type", "timestamp_null", "timestamp_type"),
        *("timestamp_past", "timestamp_future", "user_reserved", "item_reserved"),
    ]
    assert rejected.slice(1, 1).to_pylist() == [
        {"reason": "user_type", "file": "log.csv", "user": "x", "item": "2", "timestamp": "3", "line": None}
    ]
    shown = by_reason(rejected)
    assert shown["timestamp_future"] == (1, "1760000000000")
    assert shown["item_reserved"] == (1, str(-(2**63)))
    assert shown["user_null"] == (1, "")


@pytest.mark.parametrize("offset_ms", [-1, 0, 1])
def test_times_are_taken_from_1995_to_a_day_ahead(offset_ms: int) -> None:
    times = [788_918_400_000 + offset_ms, SECONDS.last_ms - offset_ms]
    raw = table(user=[1, 1], item=[1, 1], timestamp=times)
    events, rejected = clean(raw, LogConfig(), "int64", Times("ms", SECONDS.last_ms), "log")
    assert events.num_rows == (0 if offset_ms < 0 else 2)
    assert rejected["reason"].to_pylist() == (["timestamp_past", "timestamp_future"] if offset_ms < 0 else [])


def test_positions_have_no_bounds_but_0() -> None:
    raw = table(user=[1, 1, 1], item=[1, 1, 1], timestamp=[0, 2**60, -1])
    events, rejected = clean(raw, LogConfig(), "int64", Times("order", SECONDS.last_ms), "log")
    assert events["timestamp_ms"].to_pylist() == [0, 2**60]
    assert by_reason(rejected) == {"timestamp_negative": (1, "-1")}


def test_ids_that_no_user_may_have_are_rejected_and_their_neighbors_are_not() -> None:
    reserved = [-(2**63), -(2**63) + 1, 2**63 - 1]
    allowed = [-(2**63) + 2, 2**63 - 2, 0]
    raw = table(user=[*reserved, *allowed], item=[1] * 6, timestamp=[1_700_000_000] * 6)
    events, rejected = clean(raw, LogConfig(), "int64", SECONDS, "log")
    assert events["user"].to_pylist() == allowed
    assert by_reason(rejected) == {"user_reserved": (3, str(-(2**63)))}


def test_string_ids_in_json_quotes_are_rejected_for_users_as_they_are_in_kafka() -> None:
    users = ['"v-1"', '"torn\\"', '"', "v-1", '"a"b"']
    raw = table(user=users, item=['"sku"'] * 5, timestamp=[1_700_000_000] * 5)
    events, rejected = clean(raw, LogConfig(), "string", SECONDS, "log")
    assert events["user"].to_pylist() == users[1:]
    assert by_reason(rejected) == {"user_reserved": (1, '"v-1"')}


def test_ids_above_int64_are_rejected_with_a_value() -> None:
    raw = table(user=pa.array([2**63 + 5, 7], pa.uint64()), item=[1, 1], timestamp=[1_700_000_000] * 2)
    events, rejected = clean(raw, LogConfig(), "int64", SECONDS, "log")
    assert events["user"].to_pylist() == [7]
    assert by_reason(rejected) == {"user_type": (1, str(2**63 + 5))}


def test_malformed_lines_are_rejected_whole() -> None:
    batch = RawBatch(pa.table({"user": ["1"], "item": ["2"], "timestamp": ["1700000000"]}), ("1,2",))
    events, rejected = clean(batch, LogConfig(), "int64", SECONDS, "log.csv")
    assert events.num_rows == 1
    assert [(row["reason"], row["line"]) for row in rejected.to_pylist()] == [("malformed_line", "1,2")]


def test_rows_of_other_event_types_are_left_out_and_not_rejected() -> None:
    log = LogConfig(event_type_column="kind", event_types=("buy",))
    raw = table(user=[1, 2, 3, 4], item=[1, 2, 3, 4], timestamp=[1, 2, 3, -4], event_type=["buy", "view", None, "view"])
    events, rejected = clean(raw, log, "int64", Times("order", 0), "log")
    assert events["user"].to_pylist() == [1]
    assert rejected.num_rows == 0


def test_features_of_events_are_texts_as_a_context_has_them() -> None:
    log = LogConfig(event_type_column="kind", behavior=("event_type", "paid"), context=("hour", "page"))
    ids = {"user": [1, 2, 3], "item": [1, 2, 3], "timestamp": [1, -2, 3]}
    values = {"event_type": ["buy", "view", None], "paid_values": [True, None, False], "hour_values": [7, 8, None]}
    raw = table(**ids, **values, page_values=["", "b", "c"])
    events, rejected = clean(raw, log, "int64", Times("order", 0), "log")
    assert rejected.num_rows == 1
    assert events.select(["event_type_values", "paid_values", "hour_values", "page_values"]).to_pydict() == {
        "event_type_values": ["buy", "click"],
        "paid_values": ["true", "false"],
        "hour_values": ["7", None],
        "page_values": [None, "c"],
    }
    whole = RawBatch(raw.table.set_column(5, "hour_values", pa.array([7.0, 8.0, float("nan")])))
    assert clean(whole, log, "int64", Times("order", 0), "log")[0].equals(events)
    real = RawBatch(raw.table.set_column(5, "hour_values", pa.array([0.5, 1.0, 2.0])))
    with pytest.raises(DatasetError, match="column hour: is of type double: features of events are texts, integers or"):
        clean(real, log, "int64", Times("order", 0), "log")


def test_nan_is_missing_and_any_kind_of_text_is_text() -> None:
    raw = table(
        user=pa.array([1.0, float("nan")]),
        item=pa.array(["1", "1"]).dictionary_encode(),
        timestamp=pa.array(["5", "6"], pa.large_string()),
    )
    events, rejected = clean(raw, LogConfig(), "int64", Times("order", 0), "log")
    assert events.num_rows == 1
    assert rejected["reason"].to_pylist() == ["user_null"]


def test_an_empty_batch_is_no_events() -> None:
    raw = table(user=pa.array([], pa.string()), item=pa.array([], pa.int64()), timestamp=pa.array([], pa.float64()))
    events, rejected = clean(raw, LogConfig(), "string", SECONDS, "log")
    assert events.num_rows == rejected.num_rows == 0
    assert np.array_equal(keys_of(events["user"]), [])
