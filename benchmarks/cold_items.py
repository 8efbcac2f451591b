"""Items that were never seen in training: what is known of them finds them, and what that costs the others.

    python -m benchmarks.cold_items [--dataset ml1m --data ../shared/data]
    python -m benchmarks.cold_items --recipe two_tower
    python -m benchmarks.cold_items --part valid --id-dropout 0    # to choose settings by

A tenth of the items is taken out of every train user's history. The same recipe is trained with the side features of items
and without, and, where it has layers in its item tower, with features but no layers. Users look for what they turned to
among all items: R@50 of all of that, of its warm items alone (also where these alone are ranked), and of its cold ones alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from mind_dist.config import ItemTowerConfig
from mind_dist.dataset.item_catalog import FEATURE_VALUES
from mind_dist.dataset.parquet import PreparedDataset, write_manifest
from mind_dist.evaluation import ExactRecommender, HeldOut, held_out, measure, of_model
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.strict_json import to_json

_LIMIT = 50

Figures = dict[str, float]


@dataclass(frozen=True)
class ColdItems:
    """Compare items with and without side features where some were never seen."""

    dataset: str = MOVIELENS_100K
    """Which one; with side features of items."""
    data: str = ""
    """Folder of the Parquet files; MovieLens-100K needs none."""
    cache: Path = Path(".mind_dist/quality")
    """Where prepared datasets are kept."""
    recipe: str = "best"
    """What is trained."""
    part: Literal["valid", "test"] = "test"
    """Whose users are measured."""
    cold_share: float = 0.1
    """Share of the items taken out; 0 compares where all are known."""
    id_dropout: float = -1.0
    """Share of the items made of their features alone in a step; below 0 the recipe's own."""
    epochs: int = 0
    """Passes over the data; 0 for the recipe's own."""
    max_steps: int = 0
    """Bound of each training; 0 for the recipe's own."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each of which items are taken out, and of the trainings."""
    output: Path | None = None
    """Write the figures here as JSON, too."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if not 0 <= self.cold_share < 1:
            raise ValueError("cold_share must be 0 or more and below 1")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}")


def cold_keys(dataset: PreparedDataset, share: float, seed: int) -> Keys:
    """Return the items to take out."""
    keys = dataset.catalog().keys
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(keys, int(share * len(keys)), replace=False))


def without_items(dataset: PreparedDataset, cold: Keys, directory: Path, *, features: bool) -> PreparedDataset:
    """Write the dataset with some items taken out of the train split, with or without side features of items."""
    changed = with_train(dataset, directory, lambda user: _only(user, ~np.isin(user.item_keys, cold)))
    if features:
        return changed
    table = changed.catalog().table
    table = with_column(table, "feature_keys", pa.array([[] for _ in range(len(table))], pa.list_(pa.int64())))
    if FEATURE_VALUES in table.column_names:
        table = table.drop_columns([FEATURE_VALUES])
    changed.directory.write_table("items.parquet", table)
    write_manifest(changed.directory, dataclasses.replace(changed.manifest, item_features=()))
    return PreparedDataset.open(changed.directory.uri)


def users_of(users: list[HeldOut], wanted: Keys) -> list[HeldOut]:
    """Return the users who turn to any of some items, with nothing else to find."""
    found = [dataclasses.replace(user, future=_only(user.future, np.isin(user.targets, wanted))) for user in users]
    return [user for user in found if len(user.future)]


def _only(user: BehaviorSequence, kept: NDArray[np.bool_]) -> BehaviorSequence:
    return BehaviorSequence(user.user_key, user.item_keys[kept], user.timestamps_ms[kept])


def variants(job: ColdItems) -> Iterator[tuple[str, Recipe, bool]]:
    """Yield what is compared: a name, the recipe, and whether items have side features."""
    recipe = RECIPES[job.recipe]()
    training = of_length(recipe.training, info_of(job.dataset, job.data).max_behaviors)
    training = dataclasses.replace(
        training, epochs=job.epochs or training.epochs, max_steps=job.max_steps or training.max_steps
    )
    if job.id_dropout >= 0:
        training = dataclasses.replace(training, id_dropout=job.id_dropout)
    yield "with features", Recipe(recipe.model, training), True
    plain = dataclasses.replace(recipe.model, item_tower=ItemTowerConfig())
    if plain != recipe.model:
        yield "with features, no layers", Recipe(plain, training), True
    yield "without features", Recipe(plain, dataclasses.replace(training, id_dropout=0.0)), False


def without(recommender: ExactRecommender, cold: Keys) -> ExactRecommender:
    """Return a recommender that knows nothing of some items."""
    warm = ~np.isin(recommender.item_keys, cold)
    return ExactRecommender(recommender.item_keys[warm], lambda histories: recommender.score(histories)[:, warm])


def figures_of(recommender: ExactRecommender, users: list[HeldOut], dataset: PreparedDataset, cold: Keys) -> Figures:
    """Return R@50 of all items, of warm and of cold ones, and what share of the lists the cold ones take.

    Cold items take places from warm ones; what features do to the vectors of these shows where warm ones are ranked alone.
    """
    catalog = dataset.catalog()
    warm_users, warm_alone = users_of(users, np.setdiff1d(catalog.keys, cold)), without(recommender, cold)
    asked = {
        "all": (users, recommender),
        "warm": (warm_users, recommender),
        "warm among warm": (warm_users, warm_alone),
        "cold": (users_of(users, cold), recommender),
    }
    found: Figures = {}
    for name, (some, ranks) in asked.items():
        if some:
            metrics = measure(ranks, some, catalog)
            found |= {f"{name} {metric}": metrics[metric] for metric in ("recall@50", "recall@50_removed")}
    lists = recommender.recommend([user.history for user in users], _LIMIT, exclude_seen=False)
    return found | {f"cold share@{_LIMIT}": float(np.mean([np.isin(keys, cold).mean() for keys in lists]))}


def main(job: ColdItems) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    dataset = open_dataset(job.dataset, job.data, job.cache)
    users = held_out(dataset, job.part)
    found: dict[str, list[Figures]] = {}
    for seed in job.seeds:
        cold = cold_keys(dataset, job.cold_share, seed)
        for name, recipe, features in variants(job):
            directory = job.cache / "cold" / f"{job.dataset}-{job.recipe}-{seed}-{name.replace(' ', '-')}"
            Directory.at(directory).delete()
            changed = without_items(dataset, cold, directory / "dataset", features=features)
            training = dataclasses.replace(recipe.training, seed=seed)
            fitted = Recipe(changed.manifest.fit(recipe.model), training)
            recommender = of_model(train_cell(changed, fitted, directory / "version"))
            found.setdefault(name, []).append(figures_of(recommender, users, changed, cold))
    Console().print(_table(job, found))
    if job.output is not None:
        job.output.write_text(to_json(found, indent=2) + "\n")


def _table(job: ColdItems, found: dict[str, list[Figures]]) -> Table:
    table = Table(f"{job.dataset}, {job.recipe}, {job.part} users", *found)
    for metric in next(iter(found.values()))[0]:
        columns = [np.array([figures[metric] for figures in each]) for each in found.values()]
        table.add_row(metric, *(f"{values.mean():.4f} ±{values.std():.4f}" for values in columns))
    return table


if __name__ == "__main__":
    run(ColdItems, main)
