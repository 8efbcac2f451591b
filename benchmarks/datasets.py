"""A name → a prepared dataset: made once, into a cache.

MovieLens-100K comes with the `recbole` wheel; the others are Parquet files of a folder, as `benchmarks.folders` has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.folders import info_of, items_file, log_file
from jobs.cli import connect_ray
from mind_dist.config import LogConfig, MetadataConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.movielens import movielens_100k
from mind_dist.dataset.parquet import PreparedDataset, sequences_table, write_manifest
from mind_dist.dataset.prepare import prepare
from mind_dist.records import BehaviorSequence, no_keys
from mind_dist.storage import Directory

COMIREC_SPLIT = 1230
"""Seed of the shuffle by which ComiRec splits users."""


def open_dataset(name: str, data: str, cache: Path, split: int = COMIREC_SPLIT) -> PreparedDataset:
    """Return a dataset of the user split: items with 5 events, then users with 5, shuffled with a seed.

    Users keep all their events: the protocols that others measured by cut nobody.

    Args:
        name: MovieLens-100K, or a file of `data`.
        data: Folder of the Parquet files; MovieLens-100K needs none.
        cache: Where datasets are kept.
        split: The seed.

    Raises:
        ConfigError: Its files are not in `data`.
    """
    directory = cache / (name if split == COMIREC_SPLIT else f"{name}-split-{split}")
    return prepared(directory, lambda output: _user_split(name, data, output, split))


def log_of(name: str, data: str) -> LogConfig:
    """Return the raw log of a dataset.

    Raises:
        ConfigError: Its files are not in `data`.
    """
    if name == MOVIELENS_100K:
        return movielens_100k("").log
    path = log_file(name, data)
    return LogConfig((str(path.absolute()),), time_unit=info_of(name, data).time_unit)


def metadata_of(name: str, data: str) -> MetadataConfig:
    """Return what is known of a dataset's items; only those of the log, which ComiRec's protocol ranks."""
    if name == MOVIELENS_100K:
        return dataclasses.replace(movielens_100k("").items, keep_cold=False)
    info, path = info_of(name, data), items_file(name, data)
    if not path.is_file():
        return MetadataConfig()
    return MetadataConfig((str(path.absolute()),), features=info.features, columns=info.columns, keep_cold=False)


def prepared(directory: Path, config: Callable[[str], PrepareConfig]) -> PreparedDataset:
    """Return the dataset in a directory; prepare it with the config made for that directory if it is not there."""
    if not (directory / "manifest.json").exists():
        settings = config(str(directory))
        connect_ray()
        try:
            prepare(settings)
        finally:
            ray.shutdown()  # training wants the cores that Ray's idle processes would share
    return PreparedDataset.open(str(directory))


def with_train(
    dataset: PreparedDataset, directory: Path, change: Callable[[BehaviorSequence], BehaviorSequence]
) -> PreparedDataset:
    """Write a dataset with every train user's behaviors changed, and the items' counts with them.

    Its other splits are not written: their users are those of the dataset it comes from.
    """
    target, catalog = Directory.at(directory), dataset.catalog()
    items = [no_keys()]
    for bucket in range(dataset.manifest.num_buckets):
        rows = dataset.read_bucket("train", bucket).to_pylist()
        changed = [change(_user(row)) for row in rows]
        target.write_table(
            f"sequences/train/bucket-{bucket:05d}.parquet", sequences_table([user for user in changed if len(user)])
        )
        items += [user.item_keys for user in changed]
    counts = np.bincount(catalog.rows(np.concatenate(items)), minlength=len(catalog)).astype(np.int64)
    target.write_table("items.parquet", with_column(catalog.table, "count", pa.array(counts)))
    if dataset.manifest.profile_features:
        target.write_table("users.parquet", dataset.directory.read_table("users.parquet"))
    num_events = dataset.manifest.num_events | {"train": int(counts.sum())}
    write_manifest(target, dataclasses.replace(dataset.manifest, num_events=num_events))
    return PreparedDataset.open(str(directory))


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return a table with a column replaced."""
    return table.set_column(table.column_names.index(name), name, values)


def _user(row: Mapping[str, Any]) -> BehaviorSequence:
    items, times = (np.array(row[name], dtype=np.int64) for name in ("item_ids", "timestamps_ms"))
    return BehaviorSequence(row["user_id"], items, times)


def prepare_config(name: str, data: str, output: str) -> PrepareConfig:
    """Return how a dataset is prepared, but for its split."""
    if name == MOVIELENS_100K:
        return dataclasses.replace(movielens_100k(output), items=metadata_of(name, data))
    config = PrepareConfig(output, log_of(name, data), metadata_of(name, data))
    return dataclasses.replace(config, id_type=info_of(name, data).id_type)


def _user_split(name: str, data: str, output: str, split: int) -> PrepareConfig:
    config = prepare_config(name, data, output)
    return dataclasses.replace(config, split=SplitConfig(seed=split), max_user_events=0)
