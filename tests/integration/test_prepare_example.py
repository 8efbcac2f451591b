"""What `python -m jobs.prepare --example` prints prepares a log as it describes; so does a log in an object store."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from jobs.cli import connect_ray, read_settings
from jobs.prepare import PrepareJob, main
from mind_dist.config import LogConfig, PrepareConfig
from mind_dist.dataset.parquet import PreparedDataset, Split
from mind_dist.dataset.prepare import prepare
from mind_dist.keys import fingerprint
from mind_dist.storage import Directory

NUM_USERS, NUM_ITEMS = 60, 25


@pytest.fixture(scope="module", autouse=True)
def _connected(ray_cluster: str) -> Iterator[None]:
    assert ray_cluster
    connect_ray()
    yield
    ray.shutdown()


def write_shop(path: Path) -> None:
    """Write the files that the example describes: a shop's events with string ids, its catalog and its visitors."""
    generator = np.random.default_rng(3)
    actions = ("view", "cart", "purchase", "impression")
    events = [
        f"v-{user},SKU {generator.integers(NUM_ITEMS)},2024-03-{1 + place % 28:02d} 10:{place:02d}:00 UTC,{actions[place % 4]}"
        for user in range(NUM_USERS)
        for place in range(16)
    ]
    path.mkdir()
    (path / "events.csv").write_text("\n".join(["visitor,sku,at,action", *events]))
    catalog = [
        f'SKU {item},"Thing {item}",brand {item % 3},a|b{item % 2},Blue & no. {item},"{item},50",2024-01-{1 + item:02d},'
        for item in range(NUM_ITEMS + 1)
    ]
    (path / "catalog.csv").write_text(
        "\n".join(["sku,title,brand,tags,description,Preis (EUR),on_sale,off_sale", *catalog])
    )
    visitors = [f"v-{user},{'DE' if user % 2 else 'AT'},{20 + user}" for user in range(NUM_USERS)]
    (path / "visitors.csv").write_text("\n".join(["visitor,country,age", *visitors]))


def test_the_printed_example_prepares_the_shop_it_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = subprocess.run([sys.executable, "-m", "jobs.prepare", "--example"], capture_output=True, check=True)
    (tmp_path / "prepare.toml").write_bytes(printed.stdout)
    write_shop(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    main(read_settings(PrepareJob, ["--config", "prepare.toml"]))
    dataset = PreparedDataset.open("data/shop")
    manifest = dataset.manifest
    assert sum(manifest.num_users.values()) == NUM_USERS
    assert sum(manifest.num_events.values()) == manifest.steps[-1].num_events == NUM_USERS * 12
    assert manifest.num_items == NUM_ITEMS
    assert [feature.name for feature in manifest.item_features] == ["brand", "tags", "description", "price"]
    assert [feature.name for feature in manifest.profile_features] == ["country", "age"]
    items = {row["original_id"]: row for row in dataset.catalog().table.to_pylist()}
    item = items["SKU 7"]
    assert (item["title"], item["price"], item["price_text"], item["tags"]) == ("Thing 7", 7.5, "7,50", ["a", "b1"])
    assert len(item["feature_keys"]) == 1 + 2 + 3 + 1  # brand, tags, words, bucket of the price
    assert len(item["feature_values"]) == 1
    assert item["item_id"] == fingerprint("SKU 7")
    assert (item["available_from"], item["available_until"]) == (1_704_672_000_000, 2**63 - 1)
    assert [items["SKU 7"]["is_cold"], items[f"SKU {NUM_ITEMS}"]["is_cold"]] == [False, True]
    assert {each.name: each.num_missing for each in manifest.item_coverage} == dict.fromkeys(
        ("sku", "brand", "tags", "description", "price", "title", "price_text"), 0
    )


@pytest.mark.parametrize("by", ["user", "time", "leave-one-out"])
def test_every_setting_of_the_example_that_is_commented_out_is_one(by: str, tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "jobs.prepare", "--example"], capture_output=True, text=True, check=True
    )
    lines = printed.stdout.splitlines()
    given = [line.removeprefix("#") if line[:1] == "#" and line[1:2].strip() else line for line in lines]
    alternatives = [line for line in given if line.startswith("by = ")]
    (chosen,) = [line for line in alternatives if line.startswith(f'by = "{by}"')]
    given = [line for line in given if line not in alternatives or line == chosen]
    (tmp_path / "prepare.toml").write_text("\n".join(given))
    job = read_settings(PrepareJob, ["--config", str(tmp_path / "prepare.toml")])
    assert (job.num_buckets, job.split.by, job.split.valid_before_ms) == (24, by, 1_706_745_600_000)
    assert len(alternatives) == 3


def test_a_log_in_an_object_store_becomes_a_dataset_there(s3_bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [(user, item, 1_700_000_000 + item) for user in range(30) for item in range(8)]
    users, items, times = zip(*rows, strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    bucket = Directory.at(s3_bucket)
    for place in range(2):
        (bucket / "logs").write_table(f"part {place}.parquet", table.slice(place * 120, 120))
    output = (bucket / "dataset").uri
    main(PrepareJob(**vars(PrepareConfig(output, LogConfig(((bucket / "logs").uri,)), num_buckets=2))))
    dataset = PreparedDataset.open(output)
    assert sum(dataset.manifest.num_users.values()) == 30
    splits: tuple[Split, ...] = ("train", "valid", "test")
    assert sum(len(user) for split in splits for user in dataset.sequences(split)) == 240
    assert not [name for name in bucket.files() if "staging" in name]
    assert dataset.directory.uri == output
    again = prepare(dataclasses.replace(PrepareConfig(output, LogConfig(((bucket / "logs").uri,))), overwrite=True))
    assert again.num_users == dataset.manifest.num_users
    assert "secret" not in capfd.readouterr().out
