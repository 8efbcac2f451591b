"""Items that were never seen in training: what side features find of them.

    python -m benchmarks.cold_items [--dataset ml1m --data ../shared/data]
    python -m benchmarks.cold_items --cold-share 0 --id-dropout 0    # do features cost anything where all items are known?

A tenth of the items is taken out of every train user's history; users of the test split are to find those alone, among all
items. The same recipe is trained with the side features of the items and without, and measured on all targets, too.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.cells import train_cell
from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.datasets import open_dataset, with_column, with_train
from benchmarks.folders import info_of
from benchmarks.trained import of_length
from jobs.cli import run
from mind_dist.data.parquet import DatasetManifest, PreparedDataset
from mind_dist.evaluation import HeldOut, held_out, measure, of_model
from mind_dist.recipes import Recipe, best
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory


def cold_keys(dataset: PreparedDataset, share: float, seed: int) -> Keys:
    """Return the items to take out."""
    keys = dataset.catalog().keys
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(keys, int(share * len(keys)), replace=False))


def without_items(dataset: PreparedDataset, cold: Keys, directory: Path, *, features: bool) -> PreparedDataset:
    """Write the dataset with some items taken out of the train split, with or without side features of items."""
    changed = with_train(dataset, directory, lambda user: _only(user, ~np.isin(user.item_keys, cold)))
    if not features:
        table = changed.catalog().table
        empty = pa.array([[] for _ in range(len(table))], pa.list_(pa.int64()))
        changed.directory.write_table("items.parquet", with_column(table, "feature_keys", empty))
    return changed


def cold_users(users: list[HeldOut], cold: Keys) -> list[HeldOut]:
    """Return the users who turn to a cold item, with nothing else to find."""
    found = [dataclasses.replace(user, future=_only(user.future, np.isin(user.targets, cold))) for user in users]
    return [user for user in found if len(user.future)]


def _only(user: BehaviorSequence, kept: NDArray[np.bool_]) -> BehaviorSequence:
    return BehaviorSequence(user.user_key, user.item_keys[kept], user.timestamps_ms[kept])


def recipe_for(manifest: DatasetManifest, job: ColdItems) -> Recipe:
    """Return `best`, with items made of their features alone now and then."""
    recipe = best()
    training = of_length(recipe.training, info_of(job.dataset, job.data).max_behaviors)
    training = dataclasses.replace(training, id_dropout=job.id_dropout, max_steps=job.max_steps, seed=job.seed)
    return Recipe(dataclasses.replace(recipe.model, num_profile_features=len(manifest.profile_features)), training)


@dataclass(frozen=True)
class ColdItems:
    """Compare items with and without side features where they were never seen."""

    dataset: str = MOVIELENS_100K
    """Which one; with side features of items."""
    data: str = ""
    """Folder of the Parquet files; MovieLens-100K needs none."""
    cache: Path = Path(".mind_dist/quality")
    """Where prepared datasets are kept."""
    cold_share: float = 0.1
    """Share of the items taken out; 0 compares where all are known."""
    id_dropout: float = 0.3
    """Share of the items made of their features alone in a step."""
    max_steps: int = 2000
    """Steps of each training; 0 for the recipe's own."""
    seed: int = 0
    """Which items are taken out, and of the trainings."""
    output: Path | None = None
    """Write the figures here as JSON, too."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if not 0 <= self.cold_share < 1:
            raise ValueError("cold_share must be 0 or more and below 1")


def main(job: ColdItems) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    dataset = open_dataset(job.dataset, job.data, job.cache)
    cold, users = cold_keys(dataset, job.cold_share, job.seed), held_out(dataset)
    recipe = recipe_for(dataset.manifest, job)
    found = {}
    for name, features in (("with features", True), ("without", False)):
        directory = job.cache / "cold" / f"{job.dataset}-{job.seed}-{'features' if features else 'ids'}"
        Directory.at(directory).delete()
        changed = without_items(dataset, cold, directory / "dataset", features=features)
        recommender = of_model(train_cell(changed, recipe, directory / "version"))
        of_all = measure(recommender, users, changed.catalog())
        found[name] = {metric: of_all[metric] for metric in ("recall@50", "recall@50_removed")}
        if asked := cold_users(users, cold):
            found[name]["cold recall@50"] = measure(recommender, asked, changed.catalog())["recall@50"]
    table = Table(f"{job.dataset}", *found)
    for metric in found["without"]:
        table.add_row(metric, *(f"{values[metric]:.4f}" for values in found.values()))
    Console().print(table)
    if job.output is not None:
        job.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    run(ColdItems, main)
