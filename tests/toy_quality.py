"""A small prepared dataset with all three splits, as `benchmarks.datasets` would have made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mind_dist.dataset.item_catalog import ITEM_SCHEMA
from mind_dist.dataset.parquet import (
    DatasetManifest,
    FeatureInfo,
    PreparedDataset,
    Split,
    sequences_table,
    write_manifest,
)
from mind_dist.keys import feature_key, partition_of
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory

NUM_BUCKETS = 2
NUM_ITEMS = 30
SPLITS: dict[Split, int] = {"train": 60, "valid": 12, "test": 12}
"""Users per split."""


def write_quality_dataset(path: Path, *, num_valid: int = SPLITS["valid"]) -> PreparedDataset:
    """Write users who step through the items with small random steps; an item has a category or two."""
    directory, generator = Directory.at(path), np.random.default_rng(8)
    users: dict[Split, list[BehaviorSequence]] = {}
    for split, num_users in (SPLITS | {"valid": num_valid}).items():
        first = 1 + sum(len(others) for others in users.values())
        users[split] = [_user(first + number, generator) for number in range(num_users)]
        _write_split(directory, split, users[split])
    _write_items(directory, users["train"])
    num_events = {str(split): sum(len(user) for user in found) for split, found in users.items()}
    manifest = DatasetManifest(
        id_type="int64",
        num_buckets=NUM_BUCKETS,
        num_users={str(split): len(found) for split, found in users.items()},
        num_events=num_events,
        num_items=NUM_ITEMS,
        first_ms=0,
        last_ms=100,
        item_features=(FeatureInfo("categories", "categories"),),
        split={"by": "user", "input_fraction": 0.8},
    )
    write_manifest(directory, manifest)
    return PreparedDataset.open(directory.uri)


def _user(key: int, generator: np.random.Generator) -> BehaviorSequence:
    length = int(generator.integers(5, 30))
    steps = generator.integers(0, 4, size=length)
    items = 1 + (generator.integers(NUM_ITEMS) + np.cumsum(steps)) % NUM_ITEMS
    return BehaviorSequence(key, items.astype(np.int64), np.arange(length, dtype=np.int64))


def _write_split(directory: Directory, split: Split, users: list[BehaviorSequence]) -> None:
    bucket_of = partition_of(np.array([user.user_key for user in users]), NUM_BUCKETS)
    for bucket in range(NUM_BUCKETS):
        inside = [user for user, at in zip(users, bucket_of, strict=True) if at == bucket]
        directory.write_table(f"sequences/{split}/bucket-{bucket:05d}.parquet", sequences_table(inside))


def _write_items(directory: Directory, train: list[BehaviorSequence]) -> None:
    keys = np.arange(1, NUM_ITEMS + 1)
    counts = np.bincount(np.concatenate([user.item_keys for user in train]), minlength=NUM_ITEMS + 1)[1:]
    names = [[f"third {key % 3}", *(["half"] if key % 2 else [])] for key in keys.tolist()]
    features = [[feature_key("categories", name) for name in each] for each in names]
    columns = [pa.array(keys), pa.array([str(key) for key in keys]), pa.array(counts), pa.array(features)]
    table = pa.Table.from_arrays(columns, schema=ITEM_SCHEMA).append_column("categories", pa.array(names))
    directory.write_table("items.parquet", table)
