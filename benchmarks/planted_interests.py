"""A world whose users have three interests each: what K = 4 finds of them, and what K = 1 does.

    python -m benchmarks.planted_interests

Items belong to topics, and nothing else tells them apart. A user has three topics, drawn with shares .6, .3 and .1, and the
next item is to be found. There are far more topics than an item vector has dimensions, so one vector cannot point to three.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cells import train_cell
from benchmarks.planted_dataset import PlantedUser, write_planted
from mind_dist.config import MindConfig, ModelConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import held_out, measure, of_model
from mind_dist.keys import NO_FEATURES
from mind_dist.recipes import Recipe, best
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.strict_json import to_json

SHARES = (0.6, 0.3, 0.1)
"""Shares of a user's interests in what the user does."""


@dataclass(frozen=True)
class World:
    """What there is to find out.

    Attributes:
        num_topics: Topics.
        items_per_topic: Items of each; those of three topics fit into the 50 that are retrieved.
        num_users: Users, a tenth of them for the test.
        length: What each of them does.
        seed: Seed of it all.
    """

    num_topics: int = 150
    items_per_topic: int = 15
    num_users: int = 2000
    length: int = 50
    seed: int = 0


def write_world(world: World, directory: Path) -> dict[int, Keys]:
    """Write a world as a prepared dataset and return each user's topics, the largest share first."""
    generator = np.random.default_rng(world.seed)
    topics, users = {}, []
    for user in range(1, world.num_users + 1):
        topics[user] = generator.choice(world.num_topics, len(SHARES), replace=False)
        chosen = topics[user][generator.choice(len(SHARES), world.length, p=SHARES)]
        items = 1 + chosen * world.items_per_topic + generator.integers(world.items_per_topic, size=world.length)
        users.append(BehaviorSequence(user, items, np.arange(world.length)))
    planted = [PlantedUser(user) for user in users]
    write_planted(directory, planted, world.num_topics * world.items_per_topic, NO_FEATURES)
    return topics


def recipe(num_interests: int, world: World, *, dim: int, max_steps: int) -> Recipe:
    """Return MIND, started at behaviors far from each other and trained at every position."""
    model = ModelConfig(
        extraction=MindConfig(start="farthest_point"),
        dim=dim,
        num_interests=num_interests,
        adaptive_interests=False,
        hidden_dims=(64,),
    )
    length = world.length - 10
    training = dataclasses.replace(best().training, max_steps=max_steps, epochs=1000, max_behaviors=length)
    return Recipe(model, training)


def planted_cosines(encoder: InterestEncoder, topics: dict[int, Keys], dataset: PreparedDataset) -> list[float]:
    """Return, for each share, the mean cosine of the user's topic of that share with the interest closest to it."""
    users = [user.history for user in held_out(dataset)]
    items_per_topic = len(encoder.item_keys) // (1 + max(int(found.max()) for found in topics.values()))
    centers = encoder.item_vectors.reshape(-1, items_per_topic, encoder.config.dim).mean(axis=1)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    found = [
        (interests.vectors @ centers[topics[user.user_key]].T).max(axis=0)
        for user, interests in zip(users, encoder.encode(users), strict=True)
    ]
    return [float(cosine) for cosine in np.mean(found, axis=0)]


def compare(world: World, *, dim: int = 16, max_steps: int = 1500) -> dict[int, dict[str, float]]:
    """Return, for K = 1 and K = 4, hit rate@50 and how close each planted interest was come to."""
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        topics = write_world(world, Path(directory) / "world")
        dataset = PreparedDataset.open(str(Path(directory) / "world"))
        for num_interests in (1, 4):
            settings = recipe(num_interests, world, dim=dim, max_steps=max_steps)
            encoder = train_cell(dataset, settings, Path(directory) / f"version-{num_interests}")
            metrics = measure(of_model(encoder), held_out(dataset), dataset.catalog())
            cosines = zip(SHARES, planted_cosines(encoder, topics, dataset), strict=True)
            found[num_interests] = {"hit@50": metrics["hit_rate@50"]} | {f"cosine, share {s}": c for s, c in cosines}
    return found


@dataclass(frozen=True)
class PlantedInterests:
    """Compare K = 4 with K = 1 where users have three interests each."""

    dim: int = 16
    """Width of item and interest vectors."""
    max_steps: int = 1500
    """Steps of each training."""
    output: Path | None = None
    """Write the figures here as JSON, too."""


def main(job: PlantedInterests) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    found = compare(World(), dim=job.dim, max_steps=job.max_steps)
    table = Table("", *(f"K = {num_interests}" for num_interests in found))
    for name in found[1]:
        table.add_row(name, *(f"{metrics[name]:.3f}" for metrics in found.values()))
    Console().print(table)
    if job.output is not None:
        job.output.write_text(to_json(found, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(PlantedInterests))
