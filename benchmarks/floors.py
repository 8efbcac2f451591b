"""The opponents without a neural net: what a team uses before it thinks of a multi-interest model.

Each is tuned on the task's valid users, over a small grid, and then fitted to what is reported. ItemKNN and EASE are
both a matrix of item-to-item weights, applied to the newest items of a history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tasks import Stage, Task
from mind_dist.data.parquet import ItemCatalog, PreparedDataset
from mind_dist.evaluation import ExactRecommender, popularity
from mind_dist.records import BehaviorSequence, Keys

S = TypeVar("S")
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Recency:
    """Which behaviors of a history count, and how much.

    Attributes:
        last: The newest so many.
        decay: Weight of each beside the next newer one.
    """

    last: int
    decay: float


@dataclass(frozen=True)
class Neighbors:
    """How ItemKNN weighs item pairs.

    Attributes:
        window: Most steps from the first item to the second.
        lag_power: A pair counts 1 / steps to this power.
        source_power: Weights are divided by the first item's count to this power,
        target_power: and by the second's to this.
    """

    window: int
    lag_power: float
    source_power: float
    target_power: float


@dataclass(frozen=True)
class Floor:
    """An opponent, tuned and fitted.

    Attributes:
        recommender: What it recommends.
        settings: What it was tuned to.
    """

    recommender: ExactRecommender
    settings: dict[str, Any]


RECENCIES = tuple(
    Recency(last, decay)
    for last, decay in ((5, 0.8), (10, 0.8), (10, 0.9), (20, 0.9), (50, 0.95), (50, 1.0), (100, 0.98), (200, 0.99))
)
NEIGHBORS = tuple(
    Neighbors(window, lag_power, *powers)
    for window, lag_power in product((30, 100), (0.0, 0.5))
    for powers in ((0.5, 0.5), (0.75, 0.5), (1.0, 0.25))
)
PENALTIES = (100.0, 250.0, 1000.0, 4000.0)


def linear(catalog: ItemCatalog, weights: Matrix, recency: Recency) -> ExactRecommender:
    """Recommend by Σ decay^age · weights[behavior] over the newest behaviors, age 0 being the newest."""

    def score(histories: Sequence[BehaviorSequence]) -> Matrix:
        scores = np.zeros((len(histories), len(catalog)), dtype=np.float32)
        for place, history in enumerate(histories):
            rows = catalog.rows(history.item_keys)
            newest = rows[rows >= 0][-recency.last :]
            ages = np.arange(len(newest), dtype=np.float32)[::-1]
            scores[place] = np.float32(recency.decay) ** ages @ weights[newest]
        return scores

    return ExactRecommender(catalog.keys, score)


def forward_counts(dataset: PreparedDataset, catalog: ItemCatalog, window: int, lag_power: float) -> Matrix:
    """Return how often each item came at most `window` steps after each other in the train split, [N, N].

    Each time counts 1 / steps to the power `lag_power`.
    """
    counts = np.zeros((len(catalog), len(catalog)), dtype=np.float32)
    items, users = _train_events(dataset, catalog)
    pairs = items[:-1] * len(catalog)
    for lag in range(1, window + 1):
        same_user = users[lag:] == users[:-lag]
        np.add.at(
            counts.reshape(-1), (pairs[: len(pairs) + 1 - lag] + items[lag:])[same_user], np.float32(lag**-lag_power)
        )
    return counts


def item_knn_weights(counts: Matrix, catalog: ItemCatalog, neighbors: Neighbors) -> Matrix:
    """Return co-occurrence counts over the popularity of both items, each to its power, [N, N]."""
    events = np.maximum(catalog.counts, 1).astype(np.float32)
    sources, targets = (events**-power for power in (neighbors.source_power, neighbors.target_power))
    weights: Matrix = counts * sources[:, None]
    weights *= targets
    return weights


def gram(dataset: PreparedDataset, catalog: ItemCatalog) -> Matrix:
    """Return how many train users have both items, [N, N]."""
    together = np.zeros((len(catalog), len(catalog)), dtype=np.float32)
    for sequence in dataset.sequences("train"):
        items = np.unique(catalog.rows(sequence.item_keys))
        together[np.ix_(items, items)] += 1
    return together


def ease_weights(together: Matrix, penalty: float) -> Matrix:
    """Return the item weights of EASE (arXiv 1905.03375, equation 8), [N, N]: −P / diag(P) with a diagonal of zeros."""
    regular = torch.from_numpy(together) + penalty * torch.eye(len(together))
    inverse: Matrix = torch.cholesky_inverse(torch.linalg.cholesky(regular)).numpy()
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def most_popular(_task: Task, stage: Stage) -> Floor:
    """Return the most popular items, which leave nothing to tune."""
    return Floor(popularity(stage.catalog), {})


def item_knn(task: Task, stage: Stage) -> Floor:
    """Return ItemKNN on forward co-occurrence, tuned."""

    def candidates() -> Iterator[tuple[Neighbors, Matrix]]:
        dataset, catalog = task.choosing.dataset, task.choosing.catalog
        for counted, group in groupby(NEIGHBORS, key=lambda each: (each.window, each.lag_power)):
            counts = forward_counts(dataset, catalog, *counted)
            yield from ((neighbors, item_knn_weights(counts, catalog, neighbors)) for neighbors in group)

    neighbors, recency = _tuned(task, candidates())
    dataset, catalog = stage.dataset, stage.catalog
    counts = forward_counts(dataset, catalog, neighbors.window, neighbors.lag_power)
    weights = item_knn_weights(counts, catalog, neighbors)
    return Floor(linear(catalog, weights, recency), asdict(neighbors) | asdict(recency))


def ease(task: Task, stage: Stage) -> Floor:
    """Return EASE, tuned."""
    together = gram(task.choosing.dataset, task.choosing.catalog)
    penalty, recency = _tuned(task, ((penalty, ease_weights(together, penalty)) for penalty in PENALTIES))
    dataset, catalog = stage.dataset, stage.catalog
    weights = ease_weights(gram(dataset, catalog), penalty)
    return Floor(linear(catalog, weights, recency), {"penalty": penalty} | asdict(recency))


FLOORS: Mapping[str, Callable[[Task, Stage], Floor]] = MappingProxyType(
    {"popularity": most_popular, "itemknn": item_knn, "ease": ease}
)
"""Name → a floor, tuned on the task and fitted to a stage."""


def _tuned(task: Task, candidates: Iterator[tuple[S, Matrix]]) -> tuple[S, Recency]:
    """Return the settings of the best weights, and how behaviors are best weighed with them."""
    catalog = task.choosing.catalog
    found = [
        (task.quality(linear(catalog, weights, recency)), settings, recency)
        for settings, weights in candidates  # one matrix at a time: of 12,000 items each takes 600 MB
        for recency in RECENCIES
    ]
    _, settings, recency = max(found, key=lambda each: each[0])
    return settings, recency


def _train_events(dataset: PreparedDataset, catalog: ItemCatalog) -> tuple[Keys, Keys]:
    """Return the items of all train users, one user's after the other's, and whose each is."""
    sequences = [catalog.rows(sequence.item_keys) for sequence in dataset.sequences("train")]
    users = np.repeat(np.arange(len(sequences)), [len(rows) for rows in sequences])
    return np.concatenate(sequences), users
