"""A world in which the context decides which of a user's interests is asked for, and one where only purchases tell.

    python -m benchmarks.planted_context

*Contexts*: items belong to topics, topics to one of four places, and a user turns to one topic in each place. The next item is to
be found, when the place is told and when it is not; the user's four topics together are twice what is retrieved.

*Behaviors*: what a user buys next is of the topic that follows the topic bought last; between purchases lie views of anything.
The next purchase is to be found by a model that reads the event type and by one that does not.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cells import train_cell
from benchmarks.planted_dataset import PlantedUser, write_planted
from mind_dist.config import PenaltiesConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import HeldOut, held_out, in_context, measure, of_model
from mind_dist.keys import EventFeatures, behavior_key
from mind_dist.recipes import Recipe, best
from mind_dist.records import BehaviorSequence, Keys

PLACES = ("home", "work", "train", "kitchen")


@dataclass(frozen=True)
class World:
    """What there is to find out.

    Attributes:
        num_topics: Topics.
        items_per_topic: Items of each.
        num_users: Users, a tenth of them for the test.
        length: What each of them does.
        seed: Seed of it all.
    """

    num_topics: int = 20
    items_per_topic: int = 25
    num_users: int = 2000
    length: int = 41
    seed: int = 0

    @property
    def num_items(self) -> int:
        """Items of all topics; their keys are 1 … N."""
        return self.num_topics * self.items_per_topic


def context_world(world: World, directory: Path) -> PreparedDataset:
    """Write users who turn to another topic in each place."""
    generator, users = np.random.default_rng(world.seed), []
    for user in range(1, world.num_users + 1):
        topics = np.arange(len(PLACES)) + len(PLACES) * generator.integers(
            world.num_topics // len(PLACES), size=len(PLACES)
        )
        places = generator.integers(len(PLACES), size=world.length)
        values = {"place": [PLACES[place] for place in places]}
        users.append(PlantedUser(_sequence(user, topics[places], world, generator), values))
    return write_planted(directory, users, world.num_items, EventFeatures(context=("place",)))


def behavior_world(world: World, directory: Path) -> PreparedDataset:
    """Write users who buy from one topic after the other, in an order that all share, and view anything between."""
    generator, users = np.random.default_rng(world.seed), []
    after = followers(world)
    for user in range(1, world.num_users + 1):
        bought = generator.random(world.length) < 0.5  # noqa: PLR2004 - as many views as purchases
        bought[-1] = True
        topics = generator.integers(world.num_topics, size=world.length)
        for before, now in zip(np.flatnonzero(bought)[:-1], np.flatnonzero(bought)[1:], strict=True):
            topics[now] = after[topics[before]]
        types = ["purchase" if each else "view" for each in bought]
        users.append(PlantedUser(_sequence(user, topics, world, generator), {"event_type": types}))
    return write_planted(directory, users, world.num_items, EventFeatures(behavior=("event_type",)))


def followers(world: World) -> Keys:
    """Return the topic that is bought from after each."""
    ring = np.random.default_rng(world.seed).permutation(world.num_topics)
    after = np.empty_like(ring)
    after[ring] = np.roll(ring, 1)
    return after


def _sequence(user: int, topics: Keys, world: World, generator: np.random.Generator) -> BehaviorSequence:
    items = 1 + topics * world.items_per_topic + generator.integers(world.items_per_topic, size=world.length)
    return BehaviorSequence(user, items, np.arange(world.length))


def recipe(world: World, max_steps: int) -> Recipe:
    """Return `best` at a small width, begun without what it is to find out."""
    found, length = best(), world.length - 1
    training = dataclasses.replace(
        found.training, max_steps=max_steps, epochs=1000, max_behaviors=length, window_stride=length, warm_start="none"
    )
    return Recipe(dataclasses.replace(found.model, dim=32), training)


def next_item_recipe(world: World, max_steps: int) -> Recipe:
    """Return the same with one interest that is trained on the very next item, which is of another topic than the last."""
    found = recipe(world, max_steps)
    training = dataclasses.replace(found.training, num_targets=1, penalties=PenaltiesConfig())
    return Recipe(dataclasses.replace(found.model, num_interests=1, separate_item_vectors=True), training)


def compare_contexts(world: World, *, max_steps: int) -> dict[str, float]:
    """Return recall@50 of the next item: told the place, not told it, and of a model that knows no places."""
    with tempfile.TemporaryDirectory() as directory:
        dataset = context_world(world, Path(directory) / "world")
        plain = recipe(world, max_steps)
        model = dataclasses.replace(plain.model, context_features=("place",))
        encoder = train_cell(dataset, dataclasses.replace(plain, model=model), Path(directory) / "asked")
        without = train_cell(dataset, plain, Path(directory) / "plain")
        users = held_out(dataset)
        return {
            "in the context": _recall(encoder, in_context(users), dataset),
            "in none": _recall(encoder, users, dataset),
            "without contexts": _recall(without, users, dataset),
        }


def compare_behaviors(world: World, *, max_steps: int) -> dict[str, float]:
    """Return recall@50 of the next purchase: of a model that reads event types, and of one that does not.

    Beside it: for users of whom one of two behaviors is a purchase, how often the topic that follows that one comes first.
    """
    with tempfile.TemporaryDirectory() as directory:
        dataset = behavior_world(world, Path(directory) / "world")
        plain, found = next_item_recipe(world, max_steps), {}
        for name, features in (("with event types", ("event_type",)), ("without", ())):
            settings = dataclasses.replace(plain, model=dataclasses.replace(plain.model, behavior_features=features))
            encoder = train_cell(dataset, settings, Path(directory) / name.replace(" ", "-"))
            found[name] = _recall(encoder, held_out(dataset), dataset)
            found[f"purchase first, {name}"] = _purchases_first(encoder, world)
        return found


def _purchases_first(encoder: InterestEncoder, world: World) -> float:
    """Return for how many of all pairs of topics, either bought, what follows the one bought is ranked above the other."""
    first = 1 + np.arange(world.num_topics) * world.items_per_topic
    after, types = followers(world), np.array([[behavior_key("event_type", each)] for each in ("purchase", "view")])
    pairs = [(a, b) for a in range(world.num_topics) for b in range(world.num_topics) if after[a] != after[b]]
    users = [
        BehaviorSequence(0, first[list(pair)], np.arange(2), behavior_keys=types[order])
        for pair in pairs
        for order in ([0, 1], [1, 0])
    ]
    centers = encoder.item_vectors.reshape(world.num_topics, world.items_per_topic, -1).mean(axis=1)
    scores = np.array([interests.vectors[0] @ centers.T for interests in encoder.encode(users)])
    bought = np.array([after[topic] for pair in pairs for topic in pair])
    viewed = np.array([after[topic] for a, b in pairs for topic in (b, a)])
    places = np.arange(len(users))
    return float((scores[places, bought] > scores[places, viewed]).mean())


def _recall(encoder: InterestEncoder, users: Sequence[HeldOut], dataset: PreparedDataset) -> float:
    return measure(of_model(encoder), users, dataset.catalog())["recall@50"]


@dataclass(frozen=True)
class PlantedContext:
    """Compare models that read contexts and event types with models that do not."""

    max_steps: int = 600
    """Steps of each training."""
    output: Path | None = None
    """Write the figures here as JSON, too."""


def main(job: PlantedContext) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    found = {
        "contexts": compare_contexts(World(), max_steps=job.max_steps),
        "behaviors": compare_behaviors(World(), max_steps=job.max_steps),
    }
    table = Table("world", "", "share")
    for world, figures in found.items():
        for name, recall in figures.items():
            table.add_row(world, name, f"{recall:.3f}")
    Console().print(table)
    if job.output is not None:
        job.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(PlantedContext))
