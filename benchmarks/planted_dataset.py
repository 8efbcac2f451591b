"""Generated users → a prepared dataset without Ray: for worlds whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from mind_dist.dataset.event_values import distinct_values, values_column, write_values
from mind_dist.dataset.item_catalog import ITEM_SCHEMA
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset, Split, sequences_table, write_manifest
from mind_dist.keys import EventFeatures, partition_of
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory

_BUCKETS = 4


@dataclass(frozen=True)
class PlantedUser:
    """What a user does.

    Attributes:
        sequence: The behaviors.
        values: Name of a feature of events → its value at each behavior.
    """

    sequence: BehaviorSequence
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


def write_planted(
    directory: Path, users: Sequence[PlantedUser], num_items: int, features: EventFeatures
) -> PreparedDataset:
    """Write users of equally many behaviors as a dataset; the last tenth is tested, each by the last behavior.

    Args:
        directory: Where to.
        users: The users.
        num_items: Items, with the keys 1 … N.
        features: What the dataset keeps of each event.
    """
    target, length = Directory.at(directory), len(users[0].sequence)
    num_train = len(users) * 9 // 10
    splits: dict[Split, Sequence[PlantedUser]] = {"train": users[:num_train], "valid": [], "test": users[num_train:]}
    for split, inside in splits.items():
        bucket_of = partition_of(np.array([each.sequence.user_key for each in inside], dtype=np.int64), _BUCKETS)
        for bucket in range(_BUCKETS):
            table = _table([each for each, at in zip(inside, bucket_of, strict=True) if at == bucket], features)
            target.write_table(f"sequences/{split}/bucket-{bucket:05d}.parquet", table)
    names, values = distinct_values(_table(splits["train"], features), _names(features))
    write_values(target, pa.table({"value_names": pa.array([names]), "values": pa.array([values])}))
    seen = np.concatenate([each.sequence.item_keys for each in splits["train"]])
    target.write_table("items.parquet", _catalog(np.bincount(seen, minlength=num_items + 1)[1:]))
    num_users: dict[str, int] = {split: len(inside) for split, inside in splits.items()}
    manifest = DatasetManifest(
        "int64",
        _BUCKETS,
        num_users,
        {split: count * length for split, count in num_users.items()},
        num_items,
        0,
        length,
        split={"by": "user", "input_fraction": 1 - 1 / length},
        behavior_features=features.behavior,
        context_features=features.context,
    )
    write_manifest(target, manifest)
    return PreparedDataset.open(target.uri)


def _names(features: EventFeatures) -> list[str]:
    return list(dict.fromkeys((*features.behavior, *features.context)))


def _table(users: Sequence[PlantedUser], features: EventFeatures) -> pa.Table:
    ordered = sorted(users, key=lambda each: each.sequence.user_key)
    table = sequences_table([each.sequence for each in ordered])
    for name in _names(features):
        values = pa.array([list(each.values[name]) for each in ordered], pa.list_(pa.string()))
        table = table.append_column(values_column(name), values)
    return table


def _catalog(counts: Keys) -> pa.Table:
    keys = np.arange(1, len(counts) + 1)
    no_features = pa.array([[] for _ in keys], pa.list_(pa.int64()))
    columns = [pa.array(keys), pa.array([str(key) for key in keys]), pa.array(counts), no_features]
    return pa.Table.from_arrays(columns, schema=ITEM_SCHEMA)
