"""The work of preparing's tasks, in this process, against the plain implementation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.config import LogConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.parquet import SEQUENCE_SCHEMA
from mind_dist.dataset.raw_log import list_fragments
from mind_dist.dataset.staging import SPLITS, filter_buckets, group_buckets, split_buckets, split_by_time, stage_events
from mind_dist.dataset.times import Times
from mind_dist.keys import fingerprint, partition_of
from tests.reference import prepare_loops

NUM_BUCKETS = 3
Row = tuple[int, int, int]

rows_of_a_log = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 20)), min_size=1, max_size=80)


def config(path: Path, table: pa.Table, **settings: Any) -> PrepareConfig:
    pq.write_table(table, path / "log.parquet", row_group_size=30)
    return PrepareConfig(
        output=str(path / "out"),
        log=LogConfig((str(path / "log.parquet"),), time_unit="order"),
        num_buckets=NUM_BUCKETS,
        min_item_events=settings.pop("min_item_events", 2),
        min_user_events=settings.pop("min_user_events", 3),
        **settings,
    )


def as_table(rows: list[Row]) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


def staged(settings: PrepareConfig) -> pa.Table:
    parts = pa.Table.from_pylist([vars(part) for part in list_fragments(settings.log)])
    return pa.concat_tables(stage_events(parts, settings, Times("order", 0)))


def users_of(settings: PrepareConfig, found: pa.Table) -> list[dict[str, Any]]:
    """Stage the users, and return what is told of each bucket."""
    buckets = pa.table({"part": range(NUM_BUCKETS)})
    groups: list[dict[str, Any]] = pa.concat_tables(
        group_buckets(buckets, settings, found["file"].to_pylist())
    ).to_pylist()
    return groups


def grouped(settings: PrepareConfig, found: pa.Table, items: list[int]) -> pa.Table:
    buckets = pa.table({"part": range(NUM_BUCKETS)})
    users_of(settings, found)
    return pa.concat_tables(filter_buckets(buckets, settings, np.array(items, np.int64)))


def frequent_items(rows: list[Row], minimum: int) -> list[int]:
    items = [item for _, item, _ in set(rows)]
    return sorted({item for item in items if items.count(item) >= minimum})


def read(path: Path) -> prepare_loops.Users:
    files = sorted(path.glob("bucket-*.parquet"))
    assert len(files) == NUM_BUCKETS
    rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    return {row["user_id"]: list(zip(row["timestamps_ms"], row["item_ids"], strict=True)) for row in rows}


@given(rows_of_a_log)
def test_staged_sequences_equal_the_plain_implementation(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("log")
    settings = config(path, as_table(rows))
    users = grouped(settings, staged(settings), frequent_items(rows, 2))
    expected = prepare_loops.filtered(rows, 2, 3)
    assert read(path / "out/staging/sequences") == expected
    first_seen = {
        user: place
        for bucket in users.to_pylist()
        for user, place in zip(bucket["users"], bucket["first_seen"], strict=True)
    }
    assert sorted(first_seen, key=lambda user: first_seen[user]) == list(expected)


@given(rows_of_a_log, st.integers(1, 6))
def test_only_the_newest_events_of_a_user_are_kept_and_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], max_user_events: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    settings = config(path, as_table(rows), max_user_events=max_user_events)
    groups = users_of(settings, staged(settings))
    distinct = list(dict.fromkeys(rows))
    kept = prepare_loops.newest(distinct, max_user_events)
    assert sum(bucket["num_events"] for bucket in groups) == len(kept)
    users = [user for user, _, _ in distinct]
    assert sum(bucket["num_users"] for bucket in groups) == len(set(users))
    assert sum(bucket["num_cut_users"] for bucket in groups) == sum(
        users.count(u) > max_user_events for u in set(users)
    )
    counts = Counter(item for _, item, _ in rows)
    for bucket in groups:
        counts.update(dict(zip(bucket["items"], bucket["counts"], strict=True)))
    assert +counts == Counter(item for _, item, _ in kept)
    items = frequent_items(kept, 2)
    list(filter_buckets(pa.table({"part": range(NUM_BUCKETS)}), settings, np.array(items, np.int64)))
    assert read(path / "out/staging/sequences") == prepare_loops.filtered(rows, 2, 3, max_user_events)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80))
def test_of_duplicates_the_first_of_the_log_stays_and_the_others_are_taken_off_the_counts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    settings = config(tmp_path_factory.mktemp("log"), as_table(rows))
    groups = users_of(settings, staged(settings))
    distinct = list(dict.fromkeys(rows))
    expected: dict[int, list[tuple[int, int]]] = {}
    for user, item, time in sorted(distinct, key=lambda row: row[2]):
        expected.setdefault(user, []).append((item, time))
    users = pq.read_table(Path(settings.output) / "staging/users").to_pylist()
    found = {row["user_id"]: list(zip(row["item_ids"], row["timestamps_ms"], strict=True)) for row in users}
    assert found == expected
    assert sum(row["num_distinct"] for row in groups) == len(distinct)
    taken_off: Counter[int] = Counter()
    for row in groups:
        taken_off.update({item: -count for item, count in zip(row["items"], row["counts"], strict=True)})
    assert taken_off == Counter(item for _, item, _ in rows) - Counter(item for _, item, _ in distinct)


def test_a_user_is_in_the_bucket_of_its_key(tmp_path: Path) -> None:
    rows = [(user, 1, time) for user in range(20) for time in range(3)]
    settings = config(tmp_path, as_table(rows))
    users = grouped(settings, staged(settings), [1])
    for bucket in users.to_pylist():
        assert set(partition_of(np.array(bucket["users"]), NUM_BUCKETS)) == {bucket["part"]}


def test_a_batch_tells_its_items_and_why_rows_are_unusable(tmp_path: Path) -> None:
    table = as_table([(1, 7, 1), (1, 7, -1), (2, 8, 2), (2, 7, 3)])
    settings = config(tmp_path, table)
    (batch,) = staged(settings).to_pylist()
    assert (batch["items"], batch["counts"], batch["ids"]) == ([7, 8], [2, 1], [])
    assert (batch["num_rows"], batch["num_events"]) == (4, 3)
    assert (batch["reasons"], batch["num_rejected"], batch["examples"]) == (["timestamp_negative"], [1], ["-1"])
    assert pq.read_table(tmp_path / "out/rejected").num_rows == 1


def test_string_ids_ride_along(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["u"] * 3 + ["v"], "item_id": ["b", "a", "b", "b"], "timestamp": [3, 2, 1, 1]})
    settings = config(tmp_path, table, id_type="string", min_item_events=1)
    found = staged(settings)
    (batch,) = found.to_pylist()
    assert dict(zip(batch["ids"], batch["items"], strict=True)) == {"a": fingerprint("a"), "b": fingerprint("b")}
    users = grouped(settings, found, sorted(batch["items"]))
    assert [name for bucket in users.to_pylist() for name in bucket["ids"]] == ["u"]
    expected = {fingerprint("u"): [(1, fingerprint("b")), (2, fingerprint("a")), (3, fingerprint("b"))]}
    assert read(tmp_path / "out/staging/sequences") == expected


def test_without_frequent_items_no_user_is_left(tmp_path: Path) -> None:
    settings = config(tmp_path, as_table([(1, 1, 1)] * 9))
    users = grouped(settings, staged(settings), [])
    assert users["users"].to_pylist() == [[]] * NUM_BUCKETS
    assert read(tmp_path / "out/staging/sequences") == {}


def test_splits_are_written_by_place_and_train_items_counted(tmp_path: Path) -> None:
    rows = [(user, user % 2, time) for user in range(12) for time in range(3)]
    settings = config(tmp_path, as_table(rows))
    users = grouped(settings, staged(settings), [0, 1])
    places = [[user % 3 for user in bucket] for bucket in users["users"].to_pylist()]
    buckets = pa.table({"part": users["part"], "places": pa.array(places, pa.list_(pa.int64()))})
    found = pa.concat_tables(split_buckets(buckets, settings)).to_pylist()
    for place, split in enumerate(SPLITS):
        assert set(read(tmp_path / "out/sequences" / split)) == {user for user in range(12) if user % 3 == place}
        assert sum(row["num_users"][place] for row in found) == 4
        assert sum(row["num_events"][place] for row in found) == 12
    counts = [dict(zip(row["items"], row["counts"], strict=True)) for row in found]
    assert [sum(each.get(item, 0) for each in counts) for item in (0, 1)] == [6, 6]


@given(rows_of_a_log, st.integers(1, 20), st.integers(0, 10))
def test_split_by_time_equals_the_plain_implementation(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], train_before: int, gap: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    split = SplitConfig("time", train_before_ms=train_before, valid_before_ms=train_before + gap)
    settings = config(path, as_table(rows), split=split)
    users = grouped(settings, staged(settings), frequent_items(rows, 2))
    list(split_buckets(pa.table({"part": users["part"], "places": users["users"]}), settings))
    expected = prepare_loops.split_by_time(prepare_loops.filtered(rows, 2, 3), train_before, train_before + gap)
    assert {name: read(path / "out/sequences" / name) for name in SPLITS} == expected


@given(rows_of_a_log, st.integers(1, 4))
def test_leaving_one_out_equals_the_plain_implementation(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], min_events: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    settings = config(path, as_table(rows), split=SplitConfig("leave-one-out"), min_user_events=min_events)
    users = grouped(settings, staged(settings), frequent_items(rows, 2))
    list(split_buckets(pa.table({"part": users["part"], "places": users["users"]}), settings))
    expected = prepare_loops.leave_one_out(prepare_loops.filtered(rows, 2, min_events))
    assert {name: read(path / "out/sequences" / name) for name in SPLITS} == expected
    assert not (path / "out/activity").exists()


def test_an_empty_bucket_splits_by_time_into_nothing() -> None:
    split = SplitConfig("time", train_before_ms=1, valid_before_ms=2)
    assert [table.num_rows for table in split_by_time(SEQUENCE_SCHEMA.empty_table(), split)] == [0, 0, 0]
