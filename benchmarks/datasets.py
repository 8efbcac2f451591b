"""A name → a prepared dataset: made once, into a cache.

MovieLens-100K comes with the `recbole` wheel; the others are Parquet files of a folder: `NAME.parquet` has `user_id`,
`item_id` and `timestamp` in the order of users and then time, `NAME.items.parquet` what is known of items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.cli import connect_ray
from mind_dist.config import FeatureConfig, LogConfig, MetadataConfig, PrepareConfig, SplitConfig, TimeUnit
from mind_dist.data.movielens import movielens_100k
from mind_dist.data.parquet import PreparedDataset, sequences_table, write_manifest
from mind_dist.data.prepare import prepare
from mind_dist.errors import ConfigError
from mind_dist.records import BehaviorSequence, no_keys
from mind_dist.storage import Directory


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is measured with.

    Attributes:
        max_behaviors: Longest history L: ComiRec's, but 200 of online_retail_ii, whose users buy again what they bought
            long ago (ItemKNN and EASE, tuned, read a hundred).
        category: Column of the item catalog that diversity and coverage are taken over; empty where there is none.
        separator: Between the values of that column, in the Parquet files.
        text: Column of the item metadata whose words are side features; empty where there is none.
        columns: Further columns of the item metadata.
        time_unit: What its times are; several sets know the order of events alone.
    """

    max_behaviors: int
    category: str = ""
    separator: str = "|"
    text: str = ""
    columns: tuple[str, ...] = ()
    time_unit: TimeUnit = "auto"


MOVIELENS_100K = "movielens_100k"

COMIREC_SPLIT = 1230
"""Seed of the shuffle by which ComiRec splits users."""

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        MOVIELENS_100K: DatasetInfo(50, "genres", time_unit="s"),
        "ml1m": DatasetInfo(50, "categories", columns=("title",), time_unit="order"),
        "online_retail_ii": DatasetInfo(200, text="title", time_unit="s"),
        "beauty": DatasetInfo(20, "categories", " ", time_unit="order"),
    }
)
"""Name → what it is measured with."""


def open_dataset(name: str, data: str, cache: Path, split: int = COMIREC_SPLIT) -> PreparedDataset:
    """Return a dataset of the user split: items with 5 events, then users with 5, shuffled with a seed.

    Users keep all their events: the protocols that others measured by cut nobody.

    Args:
        name: One of `DATASETS`.
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
    path = Path(data) / f"{name}.parquet"
    if not data or not path.is_file():
        raise ConfigError("data", f"{name} needs the folder that holds {name}.parquet, not {data!r}")
    return LogConfig((str(path.absolute()),), time_unit=DATASETS[name].time_unit)


def metadata_of(name: str, data: str) -> MetadataConfig:
    """Return what is known of a dataset's items; only those of the log, which ComiRec's protocol ranks."""
    if name == MOVIELENS_100K:
        return dataclasses.replace(movielens_100k("").items, keep_cold=False)
    info = DATASETS[name]
    listed = ((info.category, info.separator), (info.text, " "))
    features = tuple(FeatureConfig(column, "categories", separator=between) for column, between in listed if column)
    path = (Path(data) / f"{name}.items.parquet").absolute()
    return MetadataConfig((str(path),), features=features, columns=info.columns, keep_cold=False)


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


def _user_split(name: str, data: str, output: str, split: int) -> PrepareConfig:
    if name == MOVIELENS_100K:
        config = movielens_100k(output)
        config = dataclasses.replace(config, items=metadata_of(name, data))
    else:
        config = PrepareConfig(output, log_of(name, data), metadata_of(name, data))
    return dataclasses.replace(config, split=SplitConfig(seed=split), max_user_events=0)
