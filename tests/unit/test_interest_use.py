"""How a model's interests share the work, against plain loops and hand-worked figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.encoder import InterestEncoder, UserInterests
from mind_dist.evaluation import HeldOut, interest_use, measure, of_model
from mind_dist.evaluation.interest_use import interest_shares, single_recalls
from mind_dist.records import BehaviorSequence
from tests.reference import metric_loops
from tests.versions import tiny_version

LIMIT = 50


def user(history: Any, targets: Any) -> HeldOut:
    parts = (np.array(part, np.int64) for part in (history, targets))
    return HeldOut(*(BehaviorSequence(0, part, np.arange(len(part))) for part in parts))


@dataclass
class GivenInterests:
    """An encoder whose users have the interests named by the first item of their history."""

    interests: list[list[list[float]]]
    item_vectors: np.ndarray

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(num_interests=2)

    @property
    def item_keys(self) -> np.ndarray:
        return np.arange(len(self.item_vectors))

    def encode(self, histories: list[BehaviorSequence]) -> list[UserInterests]:
        vectors = [np.array(self.interests[history.item_keys[0]], np.float32) for history in histories]
        return [UserInterests(each.reshape(-1, 2), np.ones(len(each), np.float32)) for each in vectors]


def given_interests(interests: list[list[list[float]]], items: list[list[float]]) -> InterestEncoder:
    return cast("InterestEncoder", GivenInterests(interests, np.array(items, np.float32)))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40), st.integers(1, 45))
def test_shares_and_single_recalls_equal_their_loops(seed: int, num_interests: int, num_items: int, limit: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(num_interests, num_items)).astype(np.float32)
    items, targets = generator.permutation(num_items) + 7, generator.integers(0, num_items + 20, 12)
    expected = metric_loops.interest_shares(scores.tolist(), limit)
    assert interest_shares(scores, limit).tolist() == pytest.approx(expected)
    alone = metric_loops.single_recalls(scores.tolist(), items.tolist(), targets.tolist(), limit)
    assert single_recalls(scores, items, targets, limit) == pytest.approx(alone)


def test_of_equal_scores_the_first_interest_wins() -> None:
    assert interest_shares(np.ones((3, 4), np.float32), 2).tolist() == [1, 0, 0]


def test_interest_use_equals_its_loops(tmp_path: Path) -> None:
    encoder = InterestEncoder.load(tiny_version(tmp_path, num_items=200))
    generator = np.random.default_rng(5)
    users = [user(generator.integers(0, 220, length), generator.integers(0, 200, 30)) for length in range(40)]
    interests = [each.vectors for each in encoder.encode([each.history for each in users])]
    assert {len(vectors) for vectors in interests} == {0, 1, 2, 3}
    scores = [(vectors @ encoder.item_vectors.T).tolist() for vectors in interests]

    shares = [metric_loops.interest_shares(each, LIMIT) for each in scores if len(each) == 3]
    by_interest = [sum(of_user[k] for of_user in shares) / len(shares) for k in range(3)]
    singles = [
        metric_loops.single_recalls(each, encoder.item_keys.tolist(), one.targets.tolist(), LIMIT)
        for each, one in zip(scores, users, strict=True)
    ]
    alone = [sum(of_user[k] for of_user in singles if len(of_user) > k) / len(users) for k in range(3)]
    found = [
        metric_loops.interest_hits(each, encoder.item_keys.tolist(), one.targets.tolist(), LIMIT)
        for each, one in zip(scores, users, strict=True)
    ]
    hits = [sum(of_user[k] for of_user in found if len(of_user) > k) for k in range(3)]
    figures = interest_use(encoder, users, LIMIT).by_interest()
    assert [each.hit_share for each in figures] == pytest.approx([count / sum(hits) for count in hits])
    assert [each.share for each in figures] == pytest.approx(by_interest)
    assert [each.recall for each in figures] == pytest.approx(alone)
    cosines = [metric_loops.cosine(vectors.tolist()) for vectors in interests if len(vectors) > 1]

    assert interest_use(encoder, users, LIMIT).summary() == {
        "least_interest_share@50": pytest.approx(min(by_interest)),
        "largest_interest_share@50": pytest.approx(max(by_interest)),
        "best_single_recall@50": pytest.approx(max(alone)),
        "interest_cosine": pytest.approx(sum(cosines) / len(cosines), abs=1e-5),
    }


def test_the_best_single_interest_is_one_for_all_users() -> None:
    items = [[1.0, 0.0], [0.0, 1.0]]
    both_ways = given_interests([items, items[::-1]], items)
    users = [user([0], [0]), user([1], [0])]
    assert interest_use(both_ways, users, 1).summary()["best_single_recall@1"] == 0.5
    assert interest_use(both_ways, users[:1], 1).summary()["best_single_recall@1"] == 1.0


def test_an_interest_that_never_wins_has_no_share() -> None:
    dead = given_interests([[[1.0, 1.0], [-1.0, -1.0]], [[9.0, 9.0]]], [[1.0, 0.0], [0.0, 1.0]])
    use = interest_use(dead, [user([0], [0]), user([1], [0])], 2).summary()
    assert (use["least_interest_share@2"], use["largest_interest_share@2"]) == (0.0, 1.0)
    assert use["interest_cosine"] == pytest.approx(-1.0)


def test_shares_are_left_out_where_no_user_has_all_interests() -> None:
    few = given_interests([[[1.0, 1.0]], []], [[1.0, 0.0], [0.0, 1.0]])
    use = interest_use(few, [user([0], [1]), user([1], [0])], 2).summary()
    assert use == {"interest_cosine": 0.0, "best_single_recall@2": 0.5}
    figures = interest_use(few, [user([0], [1])], 2).by_interest()
    assert [(each.share, each.hit_share, each.recall) for each in figures] == [(0.0, 1.0, 1.0), (0.0, 0.0, 0.0)]


def test_one_interest_alone_does_as_well_as_the_model_of_one(tmp_path: Path) -> None:
    encoder = InterestEncoder.load(tiny_version(tmp_path))
    users = [user([item, item + 1], [item + 3, item + 4]) for item in range(40)]
    (vectors,) = {len(each.vectors) for each in encoder.encode([each.history for each in users])}
    assert vectors == 1
    ranked = measure(of_model(encoder), users, encoder.catalog)
    assert interest_use(encoder, users, LIMIT).summary()["best_single_recall@50"] == ranked["recall@50"]
