"""Raw logs → prepared dataset on a real Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import ray

from benchmarks.datasets import log_of, metadata_of
from jobs.cli import connect_ray
from jobs.prepare import PrepareJob, main
from mind_dist.config import FeatureConfig, LogConfig, MetadataConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.activity import read_activity
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS
from mind_dist.dataset.movielens import movielens_100k
from mind_dist.dataset.parquet import PreparedDataset, Split
from mind_dist.dataset.prepare import prepare
from mind_dist.errors import ConfigError, DatasetError
from mind_dist.keys import behavior_key, context_key, feature_key, fingerprint
from tests.reference import prepare_loops

Rows = list[tuple[int, int, int]]
START_S = 1_700_000_000
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
EVERYBODY = SplitConfig(train_fraction=1.0, valid_fraction=0.0)


@pytest.fixture(scope="module", autouse=True)
def _connected(ray_cluster: str) -> Iterator[None]:
    assert ray_cluster
    connect_ray()
    yield
    ray.shutdown()


def test_a_relative_output_lies_where_the_job_runs_not_where_the_cluster_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(as_table(random_rows()), "log.parquet")
    prepare(PrepareConfig("data/mine", LogConfig(("log.parquet",))))
    assert sum(1 for _ in PreparedDataset.open("data/mine").sequences("train")) > 0
    assert (tmp_path / "data" / "mine" / "sequences" / "train" / "bucket-00000.parquet").is_file()


def random_rows(num_rows: int = 3_000) -> Rows:
    """Return a log with ties in time, repeats, rare items and short users, in no order."""
    generator = np.random.default_rng(4)
    users = (generator.pareto(0.8, num_rows) * 10).astype(int) % 150
    items = (generator.pareto(0.8, num_rows) * 10).astype(int) % 300
    return list(zip(users.tolist(), items.tolist(), generator.integers(0, 400, num_rows).tolist(), strict=True))


def as_table(rows: Rows, **columns: Any) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": [START_S + time for time in times], **columns})


def config(path: Path, table: pa.Table, **settings: Any) -> PrepareConfig:
    """Write a log of several row groups and return how to prepare it."""
    pq.write_table(table, path / "log.parquet", row_group_size=700)
    log = LogConfig((str(path / "log.parquet"),), **settings.pop("log", {}))
    return PrepareConfig(output=str(path / "out"), log=log, num_buckets=3, **settings)


def sequences(uri: str) -> dict[str, prepare_loops.Users]:
    """Return a dataset as the plain twin has it; times in seconds after the log's start."""
    dataset = PreparedDataset.open(uri)
    return {
        split: {
            s.user_key: list(zip((s.timestamps_ms // 1000 - START_S).tolist(), s.item_keys.tolist(), strict=True))
            for s in dataset.sequences(split)
        }
        for split in SPLITS
    }


def test_filter_and_split_by_user_equal_the_plain_implementation(tmp_path: Path) -> None:
    rows = random_rows()
    manifest = prepare(config(tmp_path, as_table(rows)))
    expected = prepare_loops.split_by_user(prepare_loops.filtered(rows, 5, 5))
    assert sequences(str(tmp_path / "out")) == expected
    assert manifest.num_users == {split: len(users) for split, users in expected.items()}
    assert manifest.num_events == {split: sum(map(len, users.values())) for split, users in expected.items()}
    assert all(manifest.num_users.values())
    assert manifest.num_duplicates == len(rows) - len(set(rows)) > 0
    assert manifest.event_types == ()
    assert manifest.split["input_fraction"] == 0.8


def test_split_by_time_equals_the_plain_implementation(tmp_path: Path) -> None:
    rows = random_rows()
    first, second = ((START_S + seconds) * 1000 for seconds in (250, 330))
    split = SplitConfig("time", train_before_ms=first, valid_before_ms=second)
    manifest = prepare(config(tmp_path, as_table(rows), split=split))
    expected = prepare_loops.split_by_time(prepare_loops.filtered(rows, 5, 5), 250, 330)
    assert sequences(str(tmp_path / "out")) == expected
    assert manifest.split == {"by": "time", "train_before_ms": first, "valid_before_ms": second}


def test_what_events_say_stays_with_their_behaviors(tmp_path: Path) -> None:
    rows = random_rows()
    kinds = [("view", "cart", "purchase", None)[place % 4] for place in range(len(rows))]
    hours = [None if place % 5 == 0 else place % 24 for place in range(len(rows))]
    log = {"behavior": ("event_type", "hour"), "context": ("hour",), "event_type_column": "kind"}
    manifest = prepare(config(tmp_path, as_table(rows, kind=kinds, hour=hours), log=log, split=EVERYBODY))
    assert (manifest.behavior_features, manifest.context_features) == (("event_type", "hour"), ("hour",))
    first: dict[tuple[int, int, int], tuple[str, int | None]] = {}
    for row, kind, hour in zip(rows, kinds, hours, strict=True):
        first.setdefault(row, (kind or "click", hour))
    dataset = PreparedDataset.open(str(tmp_path / "out"))
    for sequence in dataset.sequences("train"):
        places = zip(sequence.item_keys.tolist(), (sequence.timestamps_ms // 1000 - START_S).tolist(), strict=True)
        said = [first[sequence.user_key, item, time] for item, time in places]
        texts = [(kind, None if hour is None else str(hour)) for kind, hour in said]
        expected = [[behavior_key("event_type", kind), behavior_key("hour", hour)] for kind, hour in texts]
        assert sequence.behavior_keys.tolist() == expected
        assert sequence.moment_keys.tolist() == [[context_key("hour", hour)] for _, hour in texts]
    known = set(dataset.value_keys(dataset.features).tolist())
    types = {behavior_key("event_type", kind) for kind in ("view", "cart", "purchase", "click")}
    assert types <= known
    assert len(known) == len(types) + 24 + 24 + 1  # hours as a feature of behaviors and as a context, and none


@pytest.mark.parametrize("merge_rows", [1, 1 << 20])
def test_item_counts_come_from_train_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge_rows: int) -> None:
    monkeypatch.setattr("mind_dist.dataset.item_counts._MERGE_ROWS", merge_rows)
    manifest = prepare(config(tmp_path, as_table(random_rows())))
    dataset = PreparedDataset.open(str(tmp_path / "out"))
    train = np.concatenate([sequence.item_keys for sequence in dataset.sequences("train")])
    catalog = dataset.catalog()
    assert catalog.counts.tolist() == [int((train == key).sum()) for key in catalog.keys]
    assert catalog.counts.sum() == manifest.num_events["train"]
    assert catalog.table["original_id"].to_pylist() == [str(key) for key in catalog.keys]


def test_csv_and_parquet_give_the_same_dataset_byte_for_byte(tmp_path: Path) -> None:
    table = as_table(random_rows())
    from_parquet = config(tmp_path, table)
    pyarrow.csv.write_csv(table, tmp_path / "log.csv", pyarrow.csv.WriteOptions(delimiter=";"))
    log = LogConfig((str(tmp_path / "log.csv"),), "csv", ";")
    from_csv = dataclasses.replace(from_parquet, log=log, output=str(tmp_path / "csv"))
    prepare(from_parquet)
    prepare(from_csv)
    assert contents(tmp_path / "out") == contents(tmp_path / "csv")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_preparing_again_needs_overwrite_and_changes_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path, as_table(random_rows(500)))
    prepare(settings)
    first = contents(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds a dataset already"):
        prepare(settings)
    prepare(dataclasses.replace(settings, overwrite=True))
    assert contents(tmp_path / "out") == first | {"notes.txt": b"mine"}


def test_string_ids_become_keys_and_are_kept_beside_them(tmp_path: Path) -> None:
    rows = random_rows()
    table = as_table(rows)
    named = {name: pa.array([f"{name}-{key}" for key in table[name].to_pylist()]) for name in ("user_id", "item_id")}
    prepare(config(tmp_path, pa.table({**named, "timestamp": table["timestamp"]}), id_type="string"))
    expected = prepare_loops.split_by_user(prepare_loops.filtered(rows, 5, 5))
    keyed = {
        split: {
            fingerprint(f"user_id-{user}"): [(time, fingerprint(f"item_id-{item}")) for time, item in history]
            for user, history in users.items()
        }
        for split, users in expected.items()
    }
    assert sequences(str(tmp_path / "out")) == keyed
    dataset = PreparedDataset.open(str(tmp_path / "out"))
    catalog = dataset.catalog()
    assert catalog.keys.tolist() == [fingerprint(name) for name in catalog.table["original_id"].to_pylist()]
    users = pq.read_table(tmp_path / "out" / "users.parquet")
    assert users["user_id"].to_pylist() == [fingerprint(name) for name in users["original_id"].to_pylist()]
    assert users.num_rows == sum(dataset.manifest.num_users.values())


def test_other_event_types_are_left_out(tmp_path: Path) -> None:
    rows = random_rows()
    kinds = ["buy" if place % 3 else "view" for place in range(len(rows))]
    log = {"event_type_column": "kind", "event_types": ("buy",)}
    manifest = prepare(config(tmp_path, as_table(rows, kind=kinds), log=log))
    assert manifest.event_types == ("buy",)
    bought = [row for row, kind in zip(rows, kinds, strict=True) if kind == "buy"]
    assert sequences(str(tmp_path / "out")) == prepare_loops.split_by_user(prepare_loops.filtered(bought, 5, 5))


def test_duplicates_make_no_item_frequent_and_no_user_long(tmp_path: Path) -> None:
    rows = [(1, 7, 5)] * 9 + [(2, 8, time) for time in (1, 2, 2, 3, 4, 4, 5)]
    manifest = prepare(config(tmp_path, as_table(rows), split=EVERYBODY))
    assert sequences(str(tmp_path / "out"))["train"] == {2: [(time, 8) for time in range(1, 6)]}
    assert (manifest.num_items, manifest.num_events["train"], manifest.num_duplicates) == (1, 5, 10)


def test_rejected_rows_are_counted_and_kept_and_the_rest_is_prepared(tmp_path: Path) -> None:
    good = random_rows(900)
    lines = [f"{user},{item},{START_S + time}" for user, item, time in good]
    lines[10:10] = [f",1,{START_S}", f"x,1,{START_S}", "1,1,-5", "1,1", f"1,,{START_S}", "1,1,1760000000000"]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    log = LogConfig((str(tmp_path / "log.csv"),), "csv")
    manifest = prepare(PrepareConfig(output=str(tmp_path / "out"), log=log, num_buckets=2))
    assert manifest.num_rejected == {
        "item_null": 1,
        "malformed_line": 1,
        "timestamp_future": 1,
        "timestamp_past": 1,
        "user_null": 1,
        "user_type": 1,
    }
    assert manifest.rejected_examples == {
        "malformed_line": "1,1",
        "timestamp_future": "1760000000000",
        "timestamp_past": "-5",
        "user_type": "x",
    }
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    assert {(row["reason"], row["user"], row["line"]) for row in rejected} == {
        ("item_null", "1", None),
        ("malformed_line", None, "1,1"),
        ("timestamp_future", "1", None),
        ("timestamp_past", "1", None),
        ("user_null", None, None),
        ("user_type", "x", None),
    }
    assert sequences(str(tmp_path / "out")) == prepare_loops.split_by_user(prepare_loops.filtered(good, 5, 5))


def test_too_many_rejected_rows_stop_the_job_without_a_dataset(tmp_path: Path) -> None:
    rows = [
        (user, item, -1 - START_S if place % 10 == 0 else time)
        for place, (user, item, time) in enumerate(random_rows(500))
    ]
    settings = config(tmp_path, as_table(rows), max_rejected_fraction=0.05, log={"time_unit": "s"})
    with pytest.raises(DatasetError) as stopped:
        prepare(settings)
    assert str(stopped.value) == (
        f"{tmp_path}/out/rejected: 50 of 500 rows are unusable, above the limit of 5.00% (max_rejected_fraction): "
        "timestamp_past 50 (such as '-1'); timestamp is column timestamp; log.time_unit is s"
    )
    assert pq.read_table(tmp_path / "out" / "rejected").num_rows == 50
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        PreparedDataset.open(settings.output)
    prepare(dataclasses.replace(settings, max_rejected_fraction=0.1))
    assert PreparedDataset.open(settings.output).manifest.num_rejected == {"timestamp_past": 50}


def test_a_log_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.paths"):
        prepare(PrepareConfig(output=str(tmp_path / "out")))
    with pytest.raises(DatasetError, match=r"log\.parquet: nothing is left of 3 events"):
        prepare(config(tmp_path, as_table([(1, 1, 1)] * 3)))
    with pytest.raises(DatasetError, match="min_item_events=5 leaves 0 of 0 users; min_user_events=5 leaves 0 of 0"):
        prepare(config(tmp_path, as_table([(1, 1, 1)] * 3)))
    typed = {"event_type_column": "kind", "event_types": ("buy",)}
    with pytest.raises(DatasetError, match=r"nothing is left of 3 .*: no row is usable and of log\.event_types$"):
        prepare(config(tmp_path, as_table([(1, 1, 1)] * 3, kind=["view"] * 3), log=typed))
    with pytest.raises(DatasetError, match=r"log\.parquet: nothing is left of 0 events"):
        prepare(config(tmp_path, as_table([(1, 1, 1)]).slice(1)))
    with pytest.raises(DatasetError) as stopped:
        prepare(config(tmp_path, as_table([(1, 1, 1)] * 9).drop_columns(["item_id"])))
    assert str(stopped.value) == f"{tmp_path}/log.parquet: no column item_id; it has user_id, timestamp"


def test_features_and_profiles_are_joined(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": [1, 2, 3], "color": ["red", "blue", None]}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"id": [1, 2], "age": [20, 40]}), tmp_path / "users.parquet")
    rows = [(user, item, time) for user in range(12) for time, item in enumerate([1, 2, 3, 4, 1])]
    items = MetadataConfig((str(tmp_path / "items.parquet"),), features=(FeatureConfig("color"),))
    users = MetadataConfig(
        (str(tmp_path / "users.parquet"),), id_column="id", features=(FeatureConfig("age", "buckets", num_buckets=2),)
    )
    manifest = prepare(config(tmp_path, as_table(rows), items=items, users=users))
    dataset = PreparedDataset.open(str(tmp_path / "out"))
    assert dataset.catalog().table["feature_keys"].to_pylist() == [
        [feature_key("color", "red")],
        [feature_key("color", "blue")],
        [],
        [],
    ]
    assert manifest.profile_features[0].boundaries == (30.0,)
    profiles = {user: keys.tolist() for user, keys in dataset.profiles().items()}
    assert profiles[1] == [feature_key("age", 0)]
    assert profiles[2] == [feature_key("age", 1)]
    assert profiles[3] == [0]


def test_items_without_events_stay_in_the_catalog_and_cut_no_buckets(tmp_path: Path) -> None:
    columns = {"item_id": [1, 2, 3, 8, 9], "year": [1990, 1991, 1992, 2050, None], "to": [5, 6, None, 7, 8]}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    rows = [(user, item, time) for user in range(12) for time, item in enumerate([1, 2, 3, 1, 2])] + [(1, 8, 9)]
    year = FeatureConfig("year", "buckets", num_buckets=3)
    items = MetadataConfig((str(tmp_path / "items.parquet"),), features=(year,), available_until="to")
    manifest = prepare(config(tmp_path, as_table(rows), items=items))
    catalog = PreparedDataset.open(str(tmp_path / "out")).catalog()
    assert catalog.keys.tolist() == [1, 2, 3, 8, 9]
    assert catalog.is_cold.tolist() == [False, False, False, True, True]  # 8 has one event, too few
    assert (manifest.num_items, manifest.num_cold_items) == (3, 2)
    assert catalog.counts[3:].tolist() == [0, 0]
    assert catalog.table["available_until"].to_pylist() == [
        5000,
        6000,
        AVAILABILITY_LIMITS["available_until"],
        7000,
        8000,
    ]
    keys = catalog.table["feature_keys"].to_pylist()
    assert keys == [[feature_key("year", bucket)] for bucket in (0, 1, 2)] + [[feature_key("year", 2)], []]
    without = dataclasses.replace(items, keep_cold=False)
    prepare(dataclasses.replace(config(tmp_path, as_table(rows), items=without), output=str(tmp_path / "warm")))
    warm = PreparedDataset.open(str(tmp_path / "warm"))
    assert warm.catalog().table.equals(catalog.without_cold().table)
    assert warm.manifest.item_features == manifest.item_features


def test_continuous_features_are_standardised_by_the_items_of_train(tmp_path: Path) -> None:
    columns = {"item_id": [1, 2, 3, 4, 9], "price": ["1,00", "3,00", "free", "5,00", "900,00"]}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    rows = [(user, item, 1 + time) for user in range(12) for time, item in enumerate([1, 2, 3, 1, 2])]
    rows += [(user, 4, 100) for user in range(6)]  # after training ends
    price = FeatureConfig("price", "continuous")
    items = MetadataConfig((str(tmp_path / "items.parquet"),), features=(price,), decimal=",")
    first, second = ((START_S + seconds) * 1000 for seconds in (50, 90))
    split = SplitConfig("time", train_before_ms=first, valid_before_ms=second)
    manifest = prepare(config(tmp_path, as_table(rows), items=items, split=split))
    (info,) = manifest.item_features
    assert info.mean == pytest.approx(2.0), "of items 1 and 2"
    (_, coverage) = manifest.item_coverage
    assert (coverage.num_unusable, coverage.num_clipped) == (1, 1)
    catalog = PreparedDataset.open(str(tmp_path / "out")).catalog()
    assert catalog.table.schema.field("feature_values").type == pa.list_(pa.float32(), 1)
    np.testing.assert_allclose(catalog.feature_values[:, 0], [-1.02, 1.02, np.nan, 3.06, 5.0], atol=0.01)
    assert catalog.table["price"].to_pylist() == [1.0, 3.0, None, 5.0, 900.0]


def test_split_by_time_tells_when_each_item_had_events_of_all_users(tmp_path: Path) -> None:
    rows = random_rows()
    split = SplitConfig("time", train_before_ms=(START_S + 250) * 1000, valid_before_ms=(START_S + 330) * 1000)
    prepare(config(tmp_path, as_table(rows), split=split))
    activity = read_activity(PreparedDataset.open(str(tmp_path / "out")))
    kept = [event for history in prepare_loops.filtered(rows, 5, 5).values() for event in history]
    assert activity.counts.sum() == len(kept)
    first = {item: min(time for time, other in kept if other == item) for _, item in kept}
    assert activity.first_seen_ms(np.array(list(first))).tolist() == [
        (START_S + time) * 1000 for time in first.values()
    ]


def test_benchmark_items_have_the_words_of_their_titles(tmp_path: Path) -> None:
    pq.write_table(as_table([(1, 1, 0), (1, 2, 1), (2, 3, 0)]), tmp_path / "online_retail_ii.parquet")
    titles = ["RED  MUG", "RED PLATE ", None]
    pq.write_table(pa.table({"item_id": [1, 2, 3], "title": titles}), tmp_path / "online_retail_ii.items.parquet")
    log, items = log_of("online_retail_ii", str(tmp_path)), metadata_of("online_retail_ii", str(tmp_path))
    prepare(PrepareConfig(str(tmp_path / "out"), log, items, min_item_events=1, min_user_events=1, split=EVERYBODY))
    catalog = PreparedDataset.open(str(tmp_path / "out")).catalog()
    words = {
        key: set(catalog.feature_keys[start:stop].tolist())
        for key, (start, stop) in zip(catalog.keys.tolist(), pairwise(catalog.feature_offsets), strict=True)
    }
    red, mug, plate = (feature_key("title", word) for word in ("RED", "MUG", "PLATE"))
    assert words == {1: {red, mug}, 2: {red, plate}, 3: set()}


def test_the_job_prepares_movielens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(PrepareJob(str(tmp_path), run="movielens_100k"))
    shown = capsys.readouterr().out
    assert "1,349 items; rejected rows: none" in shown
    assert "333 more items are known from their metadata alone" in shown
    dataset = PreparedDataset.open(str(tmp_path))
    assert dataset.manifest.num_users == {"train": 754, "valid": 94, "test": 95}
    assert [feature.name for feature in dataset.manifest.profile_features] == ["age", "gender", "occupation"]
    first = dataset.catalog().table.slice(0, 1).to_pylist()[0]
    assert (first["movie_title"], first["genres"]) == ("Toy Story", ["Animation", "Children's", "Comedy"])


def test_a_named_run_takes_no_other_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run: movielens_100k brings its own settings"):
        PrepareJob(str(tmp_path), num_buckets=4, run="movielens_100k").config()
    job = PrepareJob(str(tmp_path), run="movielens_100k", overwrite=True)
    assert job.config() == dataclasses.replace(movielens_100k(str(tmp_path)), overwrite=True)
    assert PrepareJob(str(tmp_path), num_buckets=4).config() == PrepareConfig(str(tmp_path), num_buckets=4)


def test_a_bot_is_cut_to_its_newest_events_before_items_are_counted(tmp_path: Path) -> None:
    people = [(user, item, 1000 + user) for user in range(1, 13) for item in range(5)]
    bot = [(99, 100 + place % 20, place) for place in range(50_000)]
    manifest = prepare(config(tmp_path, as_table(bot + people), split=EVERYBODY, max_user_events=10))
    train = sequences(str(tmp_path / "out"))["train"]
    assert set(train) == set(range(1, 13))
    assert manifest.num_items == 5
    assert manifest.num_cut_users == 1
    assert [(step.setting, step.num_events, step.num_users, step.num_items) for step in manifest.steps] == [
        ("log.paths", 50_060, None, None),
        ("log.event_types=all", 50_060, None, None),
        ("max_rejected_fraction=0.01", 50_060, 13, 25),
        ("", 50_060, 13, 25),
        ("max_user_events=10", 70, 13, 15),
        ("min_item_events=5", 60, 12, 5),
        ("min_user_events=5", 60, 12, 5),
    ]


def test_by_default_a_bot_is_no_more_than_2000_events_of_an_epoch(tmp_path: Path) -> None:
    bot = [(99, place % 7, place) for place in range(50_000)]
    people = [(user, user % 7, time) for user in range(7) for time in range(5)]
    prepare(config(tmp_path, as_table(bot + people), split=EVERYBODY))
    train = sequences(str(tmp_path / "out"))["train"]
    assert train[99] == [(place, place % 7) for place in range(48_000, 50_000)]
    prepare(config(tmp_path, as_table(bot + people), split=EVERYBODY, max_user_events=0, overwrite=True))
    assert len(sequences(str(tmp_path / "out"))["train"][99]) == 50_000


def test_equal_times_of_a_cut_user_keep_the_later_rows(tmp_path: Path) -> None:
    rows = random_rows()
    prepare(config(tmp_path, as_table(rows), max_user_events=12))
    expected = prepare_loops.split_by_user(prepare_loops.filtered(rows, 5, 5, 12))
    assert sequences(str(tmp_path / "out")) == expected


def test_what_was_dropped_is_said_with_the_settings_and_stays_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = random_rows()
    kinds = ["buy" if place % 3 else "view" for place in range(len(rows))]
    log = {"event_type_column": "kind", "event_types": ("buy",)}
    settings = config(tmp_path, as_table(rows, kind=kinds), log=log)
    main(PrepareJob(**vars(settings)))
    out = capsys.readouterr().out
    steps = PreparedDataset.open(settings.output).manifest.steps
    for step in steps:
        row = next(line for line in out.splitlines() if step.name in line and step.setting in line)
        assert f"{step.num_events:,}" in row
        assert step.num_users is None or f"{step.num_users:,}" in row
    bought = [row for row, kind in zip(rows, kinds, strict=True) if kind == "buy"]
    kept = prepare_loops.filtered(bought, 5, 5)
    assert [step.setting.partition("=")[0] for step in steps] == [
        *("log.paths", "log.event_types", "max_rejected_fraction", ""),
        *("max_user_events", "min_item_events", "min_user_events"),
    ]
    assert steps[3].num_events == len(set(bought))
    assert (steps[0].num_events, steps[1].num_events) == (3_000, 2_000)
    assert (steps[-1].num_users, steps[-1].num_events) == (len(kept), sum(map(len, kept.values())))
    assert steps[2].num_users == len({user for user, _, _ in bought})
    assert "times from 2023-11-14 22:13:20 to 2023-11-14 22:19:59 UTC" in out
    assert f"\n{settings.output}\n" in out


def test_positions_are_kept_and_recorded_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(user, item, item * 7) for user in range(12) for item in range(6)]
    table = (
        as_table(rows).drop_columns(["timestamp"]).append_column("timestamp", pa.array([time for _, _, time in rows]))
    )
    settings = config(tmp_path, table)
    with pytest.raises(ConfigError, match=r"log\.time_unit: cannot tell .* to order where the values are positions"):
        prepare(settings)
    main(PrepareJob(**vars(dataclasses.replace(settings, log=dataclasses.replace(settings.log, time_unit="order")))))
    assert "positions from 0 to 35, which are no times" in capsys.readouterr().out
    dataset = PreparedDataset.open(settings.output)
    assert dataset.manifest.time_unit == "order"
    assert next(dataset.sequences("train")).timestamps_ms.tolist() == [0, 7, 14, 21, 28, 35]


def test_seconds_read_where_milliseconds_are_given_stop_with_a_value(tmp_path: Path) -> None:
    rows = as_table(random_rows(500))
    ms = rows.set_column(2, "timestamp", pa.array([time * 1000 for time in rows["timestamp"].to_pylist()]))
    with pytest.raises(DatasetError, match=r"timestamp_future 500 \(such as '17000\d{8}'\).*log\.time_unit is s"):
        prepare(config(tmp_path, ms, log={"time_unit": "s"}))
    manifest = prepare(config(tmp_path, ms))
    assert (manifest.first_ms // 1000 - START_S, manifest.time_unit) == (0, "ms")


def test_rows_in_another_unit_are_rejected_by_reason(tmp_path: Path) -> None:
    rows = as_table([(user, item, item) for user in range(40) for item in range(10)])
    times = rows["timestamp"].to_pylist()
    times[7], times[8] = times[7] * 1000, 57_742
    manifest = prepare(config(tmp_path, rows.set_column(2, "timestamp", pa.array(times))))
    assert manifest.num_rejected == {"timestamp_future": 1, "timestamp_past": 1}
    assert manifest.rejected_examples == {"timestamp_future": "1700000007000", "timestamp_past": "57742"}


def test_a_catalog_without_the_ids_of_the_log_is_refused_with_one_of_each(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["SKU-1", "SKU-2"], "color": ["red", "blue"]}), tmp_path / "items.parquet")
    rows = [(user, item, item) for user in range(12) for item in range(5)]
    items = MetadataConfig((str(tmp_path / "items.parquet"),), features=(FeatureConfig("color"),))
    settings = config(tmp_path, as_table(rows), items=items)
    with pytest.raises(DatasetError) as stopped:
        prepare(settings)
    assert str(stopped.value) == (
        f"{tmp_path}/items.parquet: column item_id has none of the log's 5 ids: it has SKU-1, the log 0; "
        "set id_column, or mend the ids"
    )


def test_coverage_is_reported_and_low_coverage_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {
        "item_id": [0, 1, 2, 77],
        "Preis (EUR)": ["1,50", "2,50", "gratis", "9,99"],
        "note": ["n" * 70_000, "short", None, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    rows = [(user, item, item) for user in range(12) for item in range(8)]
    price = FeatureConfig("price", "buckets", "Preis (EUR)", num_buckets=2)
    items = MetadataConfig((str(tmp_path / "items.parquet"),), features=(price,), columns=("note",), decimal=",")
    settings = config(tmp_path, as_table(rows), items=items)
    main(PrepareJob(**vars(settings)))
    dataset = PreparedDataset.open(settings.output)
    assert [dataclasses.astuple(each) for each in dataset.manifest.item_coverage] == [
        ("item_id", "id", 3, 5, 0, 4, 0, "", 0),
        ("price", "column", 2, 5, 1, 3, 0, "gratis", 0),
        ("note", "column", 2, 6, 0, 2, 1, "", 0),
    ]
    out = capsys.readouterr().out
    assert "warning: items: price is known for 2 of 8 of the log's items only" in out
    assert "warning: items: price has 1 values that cannot be used, such as 'gratis'" in out
    assert "warning: items: note has 1 values that were too long for Milvus and are cut" in out
    catalog = dataset.catalog().table
    assert catalog["price"].to_pylist()[:3] == [1.5, 2.5, None]
    assert len(catalog["note"][0].as_py()) == 65_535
