"""The protocol of HSTU and SASRec: everybody's last item is to be found, among all items but the 200 before it.

All events count, no item or user is filtered. Choices are made on the item before the last, by what was trained
without the last two; what is reported was trained without the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.datasets import DATASETS, MOVIELENS_100K, log_of, metadata_of, prepared
from benchmarks.tasks import Stage, Task
from mind_dist.config import PrepareConfig, SplitConfig
from mind_dist.data.movielens import movielens_100k
from mind_dist.data.parquet import PreparedDataset, sequences_table, write_manifest
from mind_dist.evaluation import HeldOut, Recommender, metrics
from mind_dist.records import BehaviorSequence, Keys, no_keys
from mind_dist.storage import Directory

MAX_INPUT = 200
"""Behaviors shown, and left out of what is recommended."""

_CHOICE_CUTOFF = 10
_EVERYBODY = SplitConfig(train_fraction=1.0, valid_fraction=0.0)


def leave_one_out(name: str, data: str, cache: Path) -> Task:
    """Return the protocol on a dataset, which is prepared if it is not there."""
    everything = prepared(cache / f"{name}-all", lambda output: _unfiltered(name, data, output))
    choosing, reporting = (_stage(everything, cache / f"{name}-without-{count}", count) for count in (2, 1))
    return Task("leave-one-out", DATASETS[name], choosing, reporting, ("removed",), hit_rate)


def hit_rate(recommender: Recommender, users: Sequence[HeldOut]) -> float:
    """Return HR@10."""
    ranked = recommender.recommend([user.history for user in users], _CHOICE_CUTOFF, exclude_seen=True)
    return float(np.mean([metrics.hit_rate(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]))


def _unfiltered(name: str, data: str, output: str) -> PrepareConfig:
    if name == MOVIELENS_100K:
        config = movielens_100k(output)
    else:
        config = PrepareConfig(output, log_of(name, data), metadata_of(name, data))
    return dataclasses.replace(config, split=_EVERYBODY, min_item_events=1, min_user_events=1)


def _stage(everything: PreparedDataset, directory: Path, left_out: int) -> Stage:
    """Return what is trained without everybody's last `left_out` items, and the first of them as targets."""
    if not (directory / "manifest.json").exists():
        _write_without(everything, Directory.at(directory), left_out)
    users = []
    for sequence in everything.sequences("train"):
        cut = len(sequence) - left_out
        if cut > 0:
            users.append(HeldOut(sequence.slice(0, cut).last(MAX_INPUT), sequence.slice(cut, cut + 1)))
    return Stage(PreparedDataset.open(str(directory)), users)


def _write_without(everything: PreparedDataset, directory: Directory, left_out: int) -> None:
    """Write the dataset without everybody's last items: sequences, item counts, manifest."""
    items = [no_keys()]
    for bucket, table in _shortened(everything, left_out):
        directory.write_table(f"sequences/train/bucket-{bucket:05d}.parquet", table)
        items.append(table["item_ids"].combine_chunks().flatten().to_numpy())
    counts = _counts(everything, np.concatenate(items))
    table = everything.catalog().table
    directory.write_table("items.parquet", table.set_column(table.column_names.index("count"), "count", [counts]))
    if everything.manifest.profile_features:
        directory.write_table("users.parquet", everything.directory.read_table("users.parquet"))
    events = {"train": int(counts.sum()), "valid": 0, "test": 0}
    write_manifest(directory, dataclasses.replace(everything.manifest, num_events=events))


def _shortened(everything: PreparedDataset, left_out: int) -> Iterator[tuple[int, pa.Table]]:
    for bucket in range(everything.manifest.num_buckets):
        rows = everything.read_bucket("train", bucket).to_pylist()
        kept = [
            BehaviorSequence(
                row["user_id"], _without(row["item_ids"], left_out), _without(row["timestamps_ms"], left_out)
            )
            for row in rows
        ]
        yield bucket, sequences_table([sequence for sequence in kept if len(sequence)])


def _without(values: list[int], left_out: int) -> Keys:
    return np.array(values[:-left_out], dtype=np.int64)


def _counts(everything: PreparedDataset, items: Keys) -> Keys:
    rows = everything.catalog().rows(items)
    return np.bincount(rows, minlength=everything.manifest.num_items).astype(np.int64)
