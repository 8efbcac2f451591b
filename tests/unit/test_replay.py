import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.config import LogConfig
from mind_dist.dataset.item_catalog import ITEM_SCHEMA
from mind_dist.dataset.parquet import (
    USER_SCHEMA,
    DatasetManifest,
    PreparedDataset,
    Split,
    sequences_table,
    write_manifest,
)
from mind_dist.dataset.replay import dataset_events, due_s, log_events, pace, rows
from mind_dist.errors import ConfigError
from mind_dist.keys import IdType, fingerprint
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory

BY_USER = {"by": "user", "input_fraction": 0.8}


def sequence(user_key: int, behaviors: list[tuple[int, int]]) -> BehaviorSequence:
    times, items = np.array(behaviors, dtype=np.int64).T
    return BehaviorSequence(user_key, items, times)


def write_dataset(
    path: Path,
    users: dict[Split, list[BehaviorSequence]],
    *,
    names: tuple[str, ...] = (),
    split: dict[str, object] | None = None,
    event_types: tuple[str, ...] = (),
) -> PreparedDataset:
    """Write a dataset of one bucket; `names` are the outside ids of users and items, if those are strings."""
    directory = Directory.at(path)
    id_type: IdType = "string" if names else "int64"
    splits: tuple[Split, ...] = ("train", "valid", "test")
    for each in splits:
        directory.write_table(f"sequences/{each}/bucket-00000.parquet", sequences_table(users.get(each, [])))
    ordered = sorted((fingerprint(name), name) for name in names)
    items = [{"item_id": key, "original_id": name, "count": 1, "feature_keys": []} for key, name in ordered]
    directory.write_table("items.parquet", pa.Table.from_pylist(items, schema=ITEM_SCHEMA))
    people = [{"user_id": key, "original_id": name, "profile_keys": []} for key, name in ordered]
    directory.write_table("users.parquet", pa.Table.from_pylist(people, schema=USER_SCHEMA))
    counts: dict[str, int] = dict.fromkeys(splits, 0)
    about = DatasetManifest(id_type, 1, counts, counts, 0, 0, 0, split=split or BY_USER, event_types=event_types)
    write_manifest(directory, about)
    return PreparedDataset.open(str(path))


def test_the_tail_is_what_evaluation_holds_out_in_time_order(tmp_path: Path) -> None:
    users: dict[Split, list[BehaviorSequence]] = {
        "train": [sequence(1, [(1, 10), (2, 11), (3, 12), (4, 13), (5, 14)])],
        "valid": [sequence(2, [(10, 20), (20, 21), (30, 22), (40, 23), (50, 24), (60, 25)])],
        "test": [sequence(3, [(15, 30), (25, 31), (35, 32), (45, 33), (55, 34)]), sequence(4, [(7, 40)])],
    }
    dataset = write_dataset(tmp_path, users)
    assert list(rows(dataset_events(dataset, "tail"))) == [
        (4, 40, 7, "click", {}),
        (2, 24, 50, "click", {}),
        (3, 34, 55, "click", {}),
        (2, 25, 60, "click", {}),
    ]


def test_all_of_a_dataset_is_replayed_in_global_time_order(tmp_path: Path) -> None:
    users: dict[Split, list[BehaviorSequence]] = {
        "train": [sequence(1, [(5, 10), (9, 11)])],
        "test": [sequence(3, [(1, 30), (7, 31)])],
    }
    dataset = write_dataset(tmp_path, users)
    assert list(rows(dataset_events(dataset, "all"))) == [
        (3, 30, 1, "click", {}),
        (1, 10, 5, "click", {}),
        (3, 31, 7, "click", {}),
        (1, 11, 9, "click", {}),
    ]


def test_a_user_in_several_splits_by_time_is_replayed_once(tmp_path: Path) -> None:
    cut: dict[str, object] = {"by": "time", "train_before_ms": 10, "valid_before_ms": 20}
    users: dict[Split, list[BehaviorSequence]] = {
        "train": [sequence(1, [(5, 10)])],
        "valid": [sequence(1, [(5, 10), (15, 11)])],
        "test": [sequence(1, [(5, 10), (15, 11), (25, 12)])],
    }
    dataset = write_dataset(tmp_path, users, split=cut)
    assert list(rows(dataset_events(dataset, "all"))) == [
        (1, 10, 5, "click", {}),
        (1, 11, 15, "click", {}),
        (1, 12, 25, "click", {}),
    ]
    assert list(rows(dataset_events(dataset, "tail"))) == [(1, 11, 15, "click", {}), (1, 12, 25, "click", {})]


def test_string_ids_are_replayed_as_they_were_outside(tmp_path: Path) -> None:
    user, item = fingerprint("ann"), fingerprint("book")
    users: dict[Split, list[BehaviorSequence]] = {"train": [sequence(user, [(5, item), (6, fingerprint("ann"))])]}
    dataset = write_dataset(tmp_path, users, names=("ann", "book", "film"))
    assert list(rows(dataset_events(dataset, "all"))) == [
        ("ann", "book", 5, "click", {}),
        ("ann", "ann", 6, "click", {}),
    ]


def test_an_empty_tail_is_an_empty_replay(tmp_path: Path) -> None:
    events = dataset_events(write_dataset(tmp_path, {}), "tail")
    assert list(rows(events)) == []
    assert list(due_s(events, rate=0, speed_up=2)) == []


def test_a_raw_log_is_sorted_and_its_unusable_rows_counted(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "who,what,when,kind\n1,10,1700000003,view\n2,20,1700000001,view\nx,30,1700000002,view\n"
        "1,11,1700000001,buy\n4,5,1700000006,no\n1,10,1700000000000,view\n1,10,6,view\n"
    )
    log = LogConfig(
        (str(tmp_path / "log.csv"),),
        "csv",
        user_column="who",
        item_column="what",
        timestamp_column="when",
        event_type_column="kind",
        event_types=("view", "buy"),
        time_unit="s",
    )
    events, num_rejected = log_events(log, "int64")
    assert list(rows(events)) == [
        (2, 20, 1_700_000_001_000, "view", {}),
        (1, 11, 1_700_000_001_000, "buy", {}),
        (1, 10, 1_700_000_003_000, "view", {}),
    ]
    assert num_rejected == 3


def test_a_raw_log_is_replayed_by_the_rules_of_preparing(tmp_path: Path) -> None:
    log = LogConfig((str(tmp_path / "log.csv"),), "csv")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "1,2,1700000000123\n" * 20 + "1,3,1700000000\n")
    events, num_rejected = log_events(log, "int64")
    assert list(rows(events)) == [(1, 2, 1_700_000_000_123, "click", {})] * 20
    assert num_rejected == 1
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,2,1\n")
    with pytest.raises(ConfigError, match=r"log\.time_unit"):
        log_events(log, "int64")
    positions = dataclasses.replace(log, time_unit="order")
    assert list(rows(log_events(positions, "int64")[0])) == [(1, 2, 1, "click", {})]


def test_a_raw_log_of_several_files_keeps_the_types_it_has(tmp_path: Path) -> None:
    for name, kinds in (("a", ["buy", None]), ("b", ["rent", "buy"])):
        table = pa.table(
            {"user_id": [1, 2], "item_id": [5, 6], "timestamp": [1_700_000_001, 1_700_000_002], "kind": pa.array(kinds)}
        )
        if name == "b":
            table = table.set_column(3, "kind", table["kind"].dictionary_encode())
        pq.write_table(table, tmp_path / f"{name}.parquet")
    events, _ = log_events(LogConfig((str(tmp_path),), event_type_column="kind"), "int64")
    assert [row[3] for row in rows(events)] == ["buy", "rent", "click", "buy"]
    events, _ = log_events(LogConfig((str(tmp_path),)), "int64")
    assert [row[3] for row in rows(events)] == ["click"] * 4


def test_a_dataset_of_purchases_is_replayed_as_purchases(tmp_path: Path) -> None:
    users: dict[Split, list[BehaviorSequence]] = {"train": [sequence(1, [(5, 10), (9, 11)])]}
    dataset = write_dataset(tmp_path, users, event_types=("purchase", "rent"))
    assert list(rows(dataset_events(dataset, "all"))) == [(1, 10, 5, "purchase", {}), (1, 11, 9, "purchase", {})]


def test_what_events_say_is_replayed_from_a_log_and_from_a_dataset(tmp_path: Path) -> None:
    columns = {"user_id": [1, 1, 2], "item_id": [10, 11, 20], "timestamp": [3, 5, 4], "hour": [7, None, 8]}
    pq.write_table(pa.table({**columns, "kind": ["buy", "view", None]}), tmp_path / "log.parquet")
    kept = {"behavior": ("event_type",), "context": ("hour",), "event_type_column": "kind", "time_unit": "order"}
    log = LogConfig((str(tmp_path / "log.parquet"),), **kept)  # type: ignore[arg-type]
    expected = [(1, 10, 3, "buy", {"hour": "7"}), (2, 20, 4, "click", {"hour": "8"}), (1, 11, 5, "view", {})]
    assert list(rows(log_events(log, "int64")[0])) == expected

    dataset = write_dataset(tmp_path / "plain", {"train": [sequence(1, [(3, 10), (5, 11)]), sequence(2, [(4, 20)])]})
    table = dataset.read_bucket("train", 0)
    table = table.append_column("event_type_values", pa.array([["buy", "view"], ["click"]]))
    table = table.append_column("hour_values", pa.array([["7", None], ["8"]]))
    dataset.directory.write_table("sequences/train/bucket-00000.parquet", table)
    for split in ("valid", "test"):
        dataset.directory.write_table(f"sequences/{split}/bucket-00000.parquet", table.slice(0, 0))
    manifest = dataclasses.replace(dataset.manifest, behavior_features=("event_type",), context_features=("hour",))
    told = dataclasses.replace(dataset, manifest=manifest)
    assert list(rows(dataset_events(told, "all"))) == expected


class Clock:
    """A clock that only sleeping and working move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@given(st.lists(st.floats(0, 10), max_size=20), st.lists(st.floats(0, 3), min_size=20, max_size=20))
def test_nothing_is_sent_before_it_is_due_and_a_late_one_does_not_push_the_others_back(
    steps: list[float], work_s: list[float]
) -> None:
    due = list(itertools.accumulate(steps))
    clock = Clock()
    free_s = 0.0
    for number in pace(due, clock=clock.read, sleep=clock.sleep):
        sent_s = clock.now_s - 100
        assert sent_s == pytest.approx(max(due[number], free_s))
        clock.now_s += work_s[number]
        free_s = clock.now_s - 100


def test_rate_speed_up_and_neither_say_when_events_are_due() -> None:
    events = pa.table({"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp_ms": [5000, 6000, 9000]})
    assert list(due_s(events, rate=2, speed_up=0)) == [0, 0.5, 1]
    assert list(due_s(events, rate=0, speed_up=10)) == pytest.approx([0, 0.1, 0.4])
    assert list(due_s(events, rate=0, speed_up=0)) == [0, 0, 0]
