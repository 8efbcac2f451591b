"""The benchmarks' opponents against slow twins, and how they are tuned."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.dataset_info import DatasetInfo
from benchmarks.floors import (
    FLOORS,
    Neighbors,
    Recency,
    ease_weights,
    forward_counts,
    gram,
    item_knn_weights,
    linear,
)
from benchmarks.significance import paired_bootstrap
from benchmarks.tasks import mean_recall, user_split
from mind_dist.data.parquet import PreparedDataset
from mind_dist.evaluation import held_out
from mind_dist.records import BehaviorSequence
from tests.reference import floor_loops
from tests.toy_quality import write_quality_dataset

RECENCY = Recency(4, 0.7)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_quality_dataset(tmp_path_factory.mktemp("floors"))


def train_of(dataset: PreparedDataset) -> list[list[int]]:
    return [sequence.item_keys.tolist() for sequence in dataset.sequences("train")]


def check_scores(dataset: PreparedDataset, weights: np.ndarray, twin: floor_loops.Weights) -> None:
    catalog, items = dataset.catalog(), dataset.catalog().keys.tolist()
    histories = [user.history for user in held_out(dataset)]
    found = linear(catalog, weights, RECENCY).score(histories)
    for row, history in zip(found, histories, strict=True):
        expected = floor_loops.scores(twin, items, history.item_keys.tolist(), RECENCY.last, RECENCY.decay)
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("neighbors", [Neighbors(3, 0.0, 0.5, 0.5), Neighbors(40, 0.5, 1.0, 0.25)])
def test_item_knn_scores_like_its_slow_twin(dataset: PreparedDataset, neighbors: Neighbors) -> None:
    catalog = dataset.catalog()
    counts = forward_counts(dataset, catalog, neighbors.window, neighbors.lag_power)
    powers = (neighbors.source_power, neighbors.target_power)
    twin = floor_loops.item_knn(train_of(dataset), neighbors.window, neighbors.lag_power, *powers)
    check_scores(dataset, item_knn_weights(counts, catalog, neighbors), twin)


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_ease_solves_every_items_regression(dataset: PreparedDataset, penalty: float) -> None:
    catalog = dataset.catalog()
    twin = floor_loops.ease(train_of(dataset), catalog.keys.tolist(), penalty)
    check_scores(dataset, ease_weights(gram(dataset, catalog), penalty), twin)


def test_behaviors_that_are_no_items_are_passed_over(dataset: PreparedDataset) -> None:
    catalog = dataset.catalog()
    weights = np.random.default_rng(0).random((len(catalog), len(catalog)), dtype=np.float32)
    known, mixed = (
        BehaviorSequence(1, np.array(keys), np.arange(len(keys))) for keys in ([3, 5, 7, 9], [3, 999, 5, 7, -4, 9])
    )
    recommender = linear(catalog, weights, RECENCY)
    np.testing.assert_array_equal(recommender.score([known]), recommender.score([mixed]))


@pytest.mark.parametrize("name", FLOORS)
def test_floors_beat_chance_after_tuning(dataset: PreparedDataset, name: str) -> None:
    task = user_split(DatasetInfo(10), dataset)
    floor = FLOORS[name](task, task.reporting)
    ranked = floor.recommender.recommend([user.history for user in task.reporting.users], 5, exclude_seen=False)
    assert all(len(keys) == 5 for keys in ranked)
    assert mean_recall(floor.recommender, task.reporting.users) > 0


def test_paired_bootstrap_tells_a_shift_from_noise() -> None:
    generator = np.random.default_rng(1)
    first, noise = generator.normal(size=400), generator.normal(size=400)
    shifted = paired_bootstrap(first + 0.2 + 0.1 * noise, first)
    assert shifted.low < shifted.mean < shifted.high
    assert shifted.p < 0.01
    assert paired_bootstrap(first, first + 0.1 * (noise - noise.mean())).p > 0.9
    assert paired_bootstrap(first, first).p == 1
