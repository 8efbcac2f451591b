"""Metrics equal their plain loops, and figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.evaluation import metrics
from tests.reference import metric_loops

rankings = st.lists(st.integers(0, 30), max_size=20, unique=True)
targets = st.lists(st.integers(0, 30), min_size=1, max_size=25)


def keys(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(rankings, targets)
def test_recall_and_hit_rate_equal_their_loops(ranked: list[int], wanted: list[int]) -> None:
    assert metrics.recall(keys(ranked), keys(wanted)) == pytest.approx(metric_loops.recall(ranked, wanted))
    assert metrics.hit_rate(keys(ranked), keys(wanted)) == metric_loops.hit_rate(ranked, wanted)


@given(rankings, targets, st.integers(1, 25))
def test_ndcg_equals_its_loop(ranked: list[int], wanted: list[int], limit: int) -> None:
    expected = metric_loops.ndcg(ranked, wanted, limit)
    assert metrics.ndcg(keys(ranked), keys(wanted), limit) == pytest.approx(expected)


def test_a_repeated_target_counts_once_as_a_hit_and_each_time_as_a_target() -> None:
    assert metrics.recall(keys([1, 2]), keys([1, 1, 1, 3])) == 0.25


def test_ndcg_is_one_when_the_targets_fill_the_top_in_any_order() -> None:
    assert metrics.ndcg(keys([3, 1, 9]), keys([1, 3, 3]), 3) == 1.0


def test_ndcg_discounts_by_the_place_in_the_ranking() -> None:
    expected = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert metrics.ndcg(keys([9, 1]), keys([1, 2]), 2) == pytest.approx(expected)


def test_an_empty_list_finds_nothing() -> None:
    assert metrics.recall(keys([]), keys([1])) == metrics.hit_rate(keys([]), keys([1])) == 0
    assert metrics.ndcg(keys([]), keys([1]), 20) == 0
    assert metrics.diversity(np.zeros((0, 3), dtype=np.bool_)) == 0


@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=2, max_size=8))
def test_diversity_equals_its_loop(categories: list[set[str]]) -> None:
    indicators = np.array([[name in owned for name in "abcd"] for owned in categories])
    assert metrics.diversity(indicators) == pytest.approx(metric_loops.diversity(categories))


categories = st.sets(st.sampled_from("abcd"))


@given(st.lists(categories, max_size=8), st.lists(categories, min_size=1, max_size=8).filter(any))
def test_category_coverage_equals_its_loop(listed: list[set[str]], wanted: list[set[str]]) -> None:
    indicators = [
        np.array([[name in owned for name in "abcd"] for owned in several], np.bool_).reshape(-1, 4)
        for several in (listed, wanted)
    ]
    assert metrics.category_coverage(*indicators) == metric_loops.category_coverage(listed, wanted)


def test_cosine_equals_its_loop() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert metrics.mean_pairwise_cosine(vectors) == pytest.approx(metric_loops.cosine(vectors.tolist()), abs=1e-5)
