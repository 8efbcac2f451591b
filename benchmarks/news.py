"""A newsroom whose items live two days: what a recipe finds of them, beside what was popular just before.

python -m benchmarks.news
python -m benchmarks.news --worlds 0 1 2 --recipes news     # other readers, articles and events
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.cells import train_cell
from benchmarks.cold_items import without_items
from benchmarks.news_world import World, open_world
from jobs.cli import run
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import (
    Moments,
    Recommender,
    Task,
    chance,
    metrics,
    of_model,
    popularity,
    task_of,
    transitions,
)
from mind_dist.evaluation.floors import FLOORS, TrainLog, choice_of, tuned
from mind_dist.evaluation.significance import paired_bootstrap
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.records import Keys
from mind_dist.storage import Directory
from mind_dist.strict_json import to_json

_LIMIT = 50


@dataclass(frozen=True)
class Found:
    """What a recommender finds.

    Attributes:
        recalls: Recall@50 of each user among what was available, a row for each seed, [S, n].
        of_all: The same where all items of three weeks are ranked.
        available: Share of these 50 that could be recommended at all, a mean over seeds and users.
    """

    recalls: NDArray[np.float64]
    of_all: NDArray[np.float64]
    available: float

    @classmethod
    def by(cls, recommenders: Sequence[Recommender], task: Task) -> Found:
        """Measure one recommender, trained with several seeds."""
        everything = dataclasses.replace(task.at.availability, item_keys=np.empty(0, dtype=np.int64))
        anytime = dataclasses.replace(task, at=Moments(task.at.times_ms, everything))
        shares = [_available(each, anytime, task) for each in recommenders]
        recalls, of_all = (np.stack([recalls_of(each, asked) for each in recommenders]) for asked in (task, anytime))
        return cls(recalls, of_all, float(np.mean(shares)))


def recalls_of(recommender: Recommender, task: Task) -> NDArray[np.float64]:
    """Return recall@50 of each user, [n]."""
    ranked = _ranked(recommender, task)
    return np.array([metrics.recall(keys, user.targets) for keys, user in zip(ranked, task.users, strict=True)])


def _ranked(recommender: Recommender, task: Task) -> list[Keys]:
    histories = [user.history for user in task.users]
    return recommender.recommend(histories, _LIMIT, exclude_seen=False, at=task.at)


def _available(recommender: Recommender, anytime: Task, task: Task) -> float:
    """Return the share of what is recommended from all items that was available."""
    times, availability = task.at.times_ms.tolist(), task.at.availability
    ranked = zip(_ranked(recommender, anytime), times, strict=True)
    return float(np.mean([availability.of(keys).at(moment).mean() for keys, moment in ranked if len(keys)]))


def baselines(dataset: PreparedDataset, task: Task) -> dict[str, Found]:
    """Return what is found without a model."""
    log = TrainLog.read(dataset)
    window = tuned("recent_popularity", log, choice_of(dataset)).settings
    named: dict[str, Recommender] = {
        "popularity": popularity(dataset.catalog()),
        "transitions": transitions(dataset),
        f"recent popularity ({window.hours} h)": FLOORS["recent_popularity"].fit(log, window),
    }
    return {name: Found.by([each], task) for name, each in named.items()}


def models(
    dataset: PreparedDataset, task: Task, recipe: str, seeds: Sequence[int], directory: Path, *, max_steps: int = 0
) -> Found:
    """Train a recipe with several seeds, and return what it finds."""
    trained = [_train(dataset, RECIPES[recipe](), seed, directory / f"{recipe}-{seed}", max_steps) for seed in seeds]
    return Found.by([of_model(encoder) for encoder in trained], task)


def _train(dataset: PreparedDataset, recipe: Recipe, seed: int, directory: Path, max_steps: int) -> InterestEncoder:
    Directory.at(directory).delete()
    training = dataclasses.replace(recipe.training, seed=seed)
    if max_steps:
        training = dataclasses.replace(training, max_steps=max_steps)
    return train_cell(dataset, dataclasses.replace(recipe, training=training), directory)


def measure_world(dataset: PreparedDataset, job: News, directory: Path) -> dict[str, Found]:
    """Return what everybody finds in a world."""
    task = task_of(dataset)
    found = baselines(dataset, task)
    ids_alone = without_items(dataset, np.empty(0, dtype=np.int64), directory / "ids-alone", features=False)
    if "best" in job.recipes:
        found["best, ids alone"] = models(
            ids_alone, task, "best", job.seeds, directory / "of-ids", max_steps=job.max_steps
        )
    for recipe in job.recipes:
        found[recipe] = models(dataset, task, recipe, job.seeds, directory, max_steps=job.max_steps)
    expected = chance(task.users, dataset.catalog().keys, _LIMIT, task.at, exclude_seen=False)
    share = expected["candidates"] / len(dataset.catalog())
    by_chance = np.full((1, len(task.users)), expected["recall"])
    found["chance"] = Found(by_chance, np.full_like(by_chance, _LIMIT / len(dataset.catalog())), share)
    return found


@dataclass(frozen=True)
class News:
    """Compare recipes with recent popularity where items live two days."""

    worlds: tuple[int, ...] = (0,)
    """Seeds of the worlds."""
    recipes: tuple[str, ...] = ("best", "news")
    """What is trained."""
    seeds: tuple[int, ...] = (17, 18, 19)
    """Seeds of the trainings."""
    cache: Path = Path(".mind_dist/news")
    """Where worlds and datasets are kept."""
    max_steps: int = 0
    """Steps of each training; 0 for the recipe's own."""
    output: Path | None = None
    """Write the figures here as JSON, too."""


def main(job: News) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    parts = [measure_world(open_world(World(seed=s), job.cache), job, job.cache / f"news-{s}") for s in job.worlds]
    rows = summary(parts)
    table = Table("", "recall@50", "less recent popularity (p)", "among all items", "of these available")
    for name, row in rows.items():
        difference = f"{row['difference']:+.3f} ({row['p']:.4f})" if "p" in row else ""
        shown = f"{row['recall']:.3f} ±{row['deviation']:.3f}"
        table.add_row(name, shown, difference, f"{row['of_all']:.3f}", f"{row['available']:.0%}")
    Console().print(table)
    if job.output is not None:
        job.output.write_text(to_json(rows, indent=2) + "\n")


def summary(parts: Sequence[Mapping[str, Found]]) -> dict[str, dict[str, float]]:
    """Return the figures over the users of all worlds; p is a paired bootstrap of users against recent popularity."""
    names = [name.partition(" (")[0] for name in parts[0]]
    by_name = {name: [list(part.values())[place] for part in parts] for place, name in enumerate(names)}
    recent = np.concatenate([found.recalls.mean(axis=0) for found in by_name["recent popularity"]])
    rows = {}
    for name, found in by_name.items():
        recalls = np.concatenate([each.recalls for each in found], axis=1)
        rows[name] = {
            "recall": float(recalls.mean()),
            "deviation": float(recalls.mean(axis=1).std(ddof=1)) if len(recalls) > 1 else 0.0,
            "of_all": float(np.mean(np.concatenate([each.of_all.mean(axis=0) for each in found]))),
            "available": float(np.mean([each.available for each in found])),
        }
        if name not in ("chance", "recent popularity"):
            difference = paired_bootstrap(recalls.mean(axis=0), recent)
            rows[name] |= {"difference": difference.mean, "p": difference.p}
    return rows


if __name__ == "__main__":
    run(News, main)
