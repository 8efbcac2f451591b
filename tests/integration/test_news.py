"""A small newsroom from raw files to candidates: articles that came after training are found, and dead ones are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from benchmarks.news import Found, News, measure_world, summary
from benchmarks.news_world import World, open_world
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import task_of
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.publishing import publish
from mind_dist.retrieval import retrieve

WORLD = World(num_users=1500, days=14)
JOB = News(recipes=("news",), seeds=(17,))


@pytest.fixture(scope="module")
def dataset(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedDataset]:
    assert ray_cluster
    yield open_world(WORLD, tmp_path_factory.mktemp("news"))
    ray.shutdown()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def found(dataset: PreparedDataset, directory: Path) -> dict[str, Found]:
    return measure_world(dataset, JOB, directory)


def test_the_recipe_for_news_is_above_recent_popularity_which_is_far_above_chance(found: dict[str, Found]) -> None:
    rows = summary([found])
    assert rows["recent popularity"]["recall"] > 2 * rows["chance"]["recall"]
    assert rows["news"]["difference"] > 0
    assert rows["news"]["p"] < 0.05


def test_nearly_all_of_what_is_to_be_found_came_after_training(dataset: PreparedDataset) -> None:
    catalog, task = dataset.catalog(), task_of(dataset)
    counts = np.concatenate([catalog.counts[catalog.rows(user.targets)] for user in task.users])
    assert (counts == 0).mean() > 0.7


@pytest.mark.usefixtures("found")
def test_articles_nobody_has_read_are_published_and_those_of_the_moment_retrieved(
    dataset: PreparedDataset, directory: Path
) -> None:
    encoder = InterestEncoder.load(str(directory / "news-17"))
    catalog, store, task = dataset.catalog(), InMemoryVectorStore(), task_of(dataset)
    assert catalog.is_cold.sum() == dataset.manifest.num_cold_items > 0
    report = publish(store, encoder, "file:///news")
    assert (report.num_items, report.num_unknown_items, report.num_available) == (len(catalog), 0, 0)
    candidates = []
    for user, moment in zip(task.users[:50], task.at.times_ms[:50].tolist(), strict=True):
        (interests,) = encoder.encode([user.history])
        assert retrieve(store, encoder.model_version, interests.vectors, 30) == []  # all are gone by now
        hits = retrieve(store, encoder.model_version, interests.vectors, 30, at_ms=moment)
        keys = np.array([candidate.item_key for candidate in hits])
        assert len(keys) == 30
        assert task.at.availability.of(keys).at(moment).all()
        candidates.append(keys)
    assert catalog.is_cold[catalog.rows(np.concatenate(candidates))].any()
