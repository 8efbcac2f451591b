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
from mind_dist.data.codec import feature_key, fingerprint
from mind_dist.data.movielens import movielens_100k
from mind_dist.data.parquet import PreparedDataset, Split
from mind_dist.data.prepare import prepare
from mind_dist.errors import ConfigError, DatasetError
from tests.reference import prepare_loops

Rows = list[tuple[int, int, int]]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
EVERYBODY = SplitConfig(train_fraction=1.0, valid_fraction=0.0)


@pytest.fixture(scope="module", autouse=True)
def _connected(ray_cluster: str) -> Iterator[None]:
    assert ray_cluster
    connect_ray()
    yield
    ray.shutdown()


def random_rows(num_rows: int = 3_000) -> Rows:
    """Return a log with ties in time, repeats, rare items and short users, in no order."""
    generator = np.random.default_rng(4)
    users = (generator.pareto(0.8, num_rows) * 10).astype(int) % 150
    items = (generator.pareto(0.8, num_rows) * 10).astype(int) % 300
    return list(zip(users.tolist(), items.tolist(), generator.integers(0, 400, num_rows).tolist(), strict=True))


def as_table(rows: Rows, **columns: Any) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times, **columns})


def config(path: Path, table: pa.Table, **settings: Any) -> PrepareConfig:
    """Write a log of several row groups and return how to prepare it."""
    pq.write_table(table, path / "log.parquet", row_group_size=700)
    log = LogConfig((str(path / "log.parquet"),), **settings.pop("log", {}))
    return PrepareConfig(output=str(path / "out"), log=log, num_buckets=3, **settings)


def sequences(uri: str) -> dict[str, prepare_loops.Users]:
    """Return a dataset as the plain twin has it; times in seconds."""
    dataset = PreparedDataset.open(uri)
    return {
        split: {
            s.user_key: list(zip((s.timestamps_ms // 1000).tolist(), s.item_keys.tolist(), strict=True))
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
    split = SplitConfig("time", train_before_ms=250_000, valid_before_ms=330_000)
    manifest = prepare(config(tmp_path, as_table(rows), split=split))
    expected = prepare_loops.split_by_time(prepare_loops.filtered(rows, 5, 5), 250, 330)
    assert sequences(str(tmp_path / "out")) == expected
    assert manifest.split == {"by": "time", "train_before_ms": 250_000, "valid_before_ms": 330_000}


@pytest.mark.parametrize("merge_rows", [1, 1 << 20])
def test_item_counts_come_from_train_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge_rows: int) -> None:
    monkeypatch.setattr("mind_dist.data.prepare._MERGE_ROWS", merge_rows)
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
    lines = [f"{user},{item},{time}" for user, item, time in good]
    lines[10:10] = [",1,1", "x,1,1", "1,1,-5", "1,1", "1,,1"]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    log = LogConfig((str(tmp_path / "log.csv"),), "csv")
    manifest = prepare(PrepareConfig(output=str(tmp_path / "out"), log=log, num_buckets=2))
    assert manifest.num_rejected == {
        "item_null": 1,
        "malformed_line": 1,
        "timestamp_negative": 1,
        "user_null": 1,
        "user_type": 1,
    }
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    assert {(row["reason"], row["user"], row["line"]) for row in rejected} == {
        ("item_null", "1", None),
        ("malformed_line", None, "1,1"),
        ("timestamp_negative", "1", None),
        ("user_null", None, None),
        ("user_type", "x", None),
    }
    assert sequences(str(tmp_path / "out")) == prepare_loops.split_by_user(prepare_loops.filtered(good, 5, 5))


def test_too_many_rejected_rows_stop_the_job_without_a_dataset(tmp_path: Path) -> None:
    rows = [(user, item, -1 if place % 10 == 0 else time) for place, (user, item, time) in enumerate(random_rows(500))]
    settings = config(tmp_path, as_table(rows), max_rejected_fraction=0.05)
    with pytest.raises(DatasetError, match=r"out/rejected: 50 of 500 rows .* limit of 5\.00%: timestamp_negative 50"):
        prepare(settings)
    assert pq.read_table(tmp_path / "out" / "rejected").num_rows == 50
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        PreparedDataset.open(settings.output)
    prepare(dataclasses.replace(settings, max_rejected_fraction=0.1))
    assert PreparedDataset.open(settings.output).manifest.num_rejected == {"timestamp_negative": 50}


def test_a_log_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.paths"):
        prepare(PrepareConfig(output=str(tmp_path / "out")))
    with pytest.raises(DatasetError, match=r"log\.parquet: nothing is left of 3 events"):
        prepare(config(tmp_path, as_table([(1, 1, 1)] * 3)))
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
    assert "1,349 items; rejected rows: none" in capsys.readouterr().out
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
