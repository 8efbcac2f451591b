import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mind_dist.config import ServingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import InvalidRequest, NotReady, UnknownUser, VectorStoreError
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow
from mind_dist.keys import IdType, id_key
from mind_dist.observability import InMemoryMetrics
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence, Candidate
from mind_dist.retrieval import Merging
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.requests import RetrieveRequest
from tests.reference import retrieval_loops
from tests.toy_serving import Clock
from tests.toy_views import fill_users
from tests.versions import GENRES, loaded, tiny_version

SECRET = 10_000
"""An item that nobody knows."""

EIGHT = list(range(1, 9))
"""A history long enough for three interests."""


class Setting:
    """A published tiny version with user 5, who saw items 1 to 8 and has several interests, user 7, who saw items 1,
    2 and 3 and has one, and user 8, who saw nothing known.
    """

    def __init__(self, directory: Path, id_type: IdType = "int64") -> None:
        self.id_type = id_type
        self.store = InMemoryVectorStore()
        self.clock = Clock()
        self.metrics = InMemoryMetrics()
        self.encoders: dict[str, InterestEncoder] = {}
        self.first = self.publish(directory / "1", 1)
        config = ServingConfig(max_limit=100, category_column="genre")
        self.recommender = Recommender(self.store, self.encoders, config, self.metrics, self.clock)

    def id(self, item: int) -> int | str:
        return item if self.id_type == "int64" else f"item-{item}"

    def keys(self, *items: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([id_key(self.id(item), self.id_type) for item in items], dtype=np.int64)

    def publish(self, directory: Path, seed: int) -> InterestEncoder:
        uri = tiny_version(directory, seed=seed, id_type=self.id_type)
        encoder = loaded(uri)
        users = [
            BehaviorSequence(int(self.user(5)[1]), self.keys(*EIGHT), np.arange(8)),
            BehaviorSequence(int(self.user(7)[1]), self.keys(1, 2, 3), np.arange(3)),
            BehaviorSequence(int(self.user(8)[1]), self.keys(SECRET), np.arange(1)),
        ]
        publish(self.store, encoder, uri)
        fill_users(self.store, encoder, encoder.model_version, users)
        self.encoders[encoder.model_version] = encoder
        return encoder

    def user(self, user: int) -> tuple[int | str, int]:
        user_id = user if self.id_type == "int64" else f"user-{user}"
        return user_id, id_key(user_id, self.id_type)

    def best(self, encoder: InterestEncoder, items: list[int], limit: int) -> list[int | str]:
        """Return the ids of the items closest to a history, by brute force."""
        history = BehaviorSequence(0, self.keys(*items), np.arange(len(items)))
        scores = (encoder.encode([history])[0].vectors @ encoder.item_vectors.T).max(axis=0)
        outside = {int(self.keys(item)[0]): self.id(item) for item in range(60)}
        ranking = [outside[int(encoder.item_keys[at])] for at in np.argsort(-scores, kind="stable")]
        return [each for each in ranking if each not in {self.id(item) for item in items}][:limit]


@pytest.fixture(params=["int64", "string"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    return Setting(tmp_path, request.param)


@pytest.fixture
def numbers(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_candidates_of_a_user_equal_brute_force(setting: Setting) -> None:
    response = setting.recommender.retrieve(RetrieveRequest(user_id=setting.user(7)[0], limit=10))
    assert [each.item_id for each in response.candidates] == setting.best(setting.first, [1, 2, 3], 10)
    scores = [each.score for each in response.candidates]
    assert scores == sorted(scores, reverse=True)
    assert {each.interest for each in response.candidates} <= set(range(response.num_interests))
    assert response.model_version == setting.first.model_version


def test_candidates_of_behaviors_equal_brute_force_and_unknown_items_are_counted(setting: Setting) -> None:
    ids = [setting.id(item) for item in (5, SECRET, 9)]
    response = setting.recommender.retrieve(RetrieveRequest(behaviors=ids, limit=10))
    assert [each.item_id for each in response.candidates] == setting.best(setting.first, [5, 9], 10)
    assert response.unknown_items == 1
    assert setting.metrics.values["mind_dist_retrieve_unknown_items"] == 1
    assert len(setting.metrics.observed["mind_dist_retrieve_seconds"]) == 1


@pytest.mark.parametrize("merging", ["budget", "round_robin"])
@pytest.mark.parametrize("of", [{"user_id": 5}, {"behaviors": EIGHT}], ids=["user", "behaviors"])
def test_interests_share_the_candidates_by_the_weights_of_the_history(
    numbers: Setting, merging: Merging, of: dict[str, Any]
) -> None:
    [user] = numbers.first.encode([BehaviorSequence(0, numbers.keys(*EIGHT), np.arange(8))])
    assert len(user.vectors) == 3
    weights = user.weights.tolist()
    pairs = [
        Candidate(int(key), float(score), interest)
        for interest, scores in enumerate(user.vectors @ numbers.first.item_vectors.T)
        for key, score in zip(numbers.first.item_keys, scores, strict=True)
    ]
    by_budget = retrieval_loops.by_budget(pairs, retrieval_loops.budgets(10, weights), exclude=EIGHT)
    in_turn = retrieval_loops.in_turn(pairs, 10, weights, exclude=EIGHT)
    response = numbers.recommender.retrieve(RetrieveRequest(limit=10, merging=merging, **of))
    found = [(each.item_id, each.interest) for each in response.candidates]
    expected = by_budget if merging == "budget" else in_turn
    assert found == [(each.item_key, each.interest) for each in expected]


def test_a_users_view_is_in_outside_ids(setting: Setting) -> None:
    view = setting.recommender.interests(setting.user(7)[0])
    assert view.behaviors == [setting.id(item) for item in (1, 2, 3)]
    assert view.timestamps_ms == [0, 1, 2]
    assert np.shape(view.interests) == (len(view.weights), 8)
    unknown = setting.recommender.interests(setting.user(8)[0])
    assert unknown.behaviors == [SECRET if setting.id_type == "int64" else None]
    assert unknown.interests == []


def test_history_is_kept_or_left_out_as_asked(numbers: Setting) -> None:
    kept = numbers.recommender.retrieve(RetrieveRequest(user_id=7, limit=50, exclude_seen=False))
    left_out = numbers.recommender.retrieve(RetrieveRequest(user_id=7, limit=50))
    assert {1, 2, 3} <= {each.item_id for each in kept.candidates}
    assert not {1, 2, 3} & {each.item_id for each in left_out.candidates}


def test_a_filter_holds_and_diversity_mixes_categories(numbers: Setting) -> None:
    war = numbers.recommender.retrieve(RetrieveRequest(user_id=7, limit=10, filter={"genre": "war"}))
    assert {GENRES[int(each.item_id) % 3] for each in war.candidates} == {"war"}
    mixed = numbers.recommender.retrieve(RetrieveRequest(user_id=7, limit=3, diversity_weight=10.0))
    assert {GENRES[int(each.item_id) % 3] for each in mixed.candidates} == set(GENRES)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (RetrieveRequest(), "either user_id or behaviors"),
        (RetrieveRequest(user_id=7, behaviors=[1]), "either user_id or behaviors"),
        (RetrieveRequest(user_id=7, limit=0), "limit 0 must be between 1 and 100"),
        (RetrieveRequest(user_id=7, limit=101), "limit 101 must be between 1 and 100"),
        (RetrieveRequest(user_id=7, diversity_weight=float("nan")), "diversity_weight nan"),
        (RetrieveRequest(user_id=7, diversity_weight=-1.0), "diversity_weight -1.0"),
        (RetrieveRequest(user_id=9, merging="median"), "merging 'median' must be one of"),  # type: ignore[arg-type]
        (RetrieveRequest(user_id=9, merging="budget", diversity_weight=1.0), "not with budget"),
        (RetrieveRequest(user_id=7, filter={"colour": "red"}), "unknown column 'colour'"),
        (RetrieveRequest(user_id=7, filter={"genre": float("nan")}), "genre"),
        (RetrieveRequest(user_id="seven"), "user_id: must be an integer"),
        (RetrieveRequest(behaviors=["one"]), "behaviors: an item id must be an integer"),
    ],
)
def test_malformed_requests_are_refused_with_the_reason(
    numbers: Setting, request_: RetrieveRequest, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        numbers.recommender.retrieve(request_)


def test_diversity_without_a_category_column_is_refused(numbers: Setting) -> None:
    plain = Recommender(numbers.store, numbers.encoders, ServingConfig(), numbers.metrics)
    with pytest.raises(InvalidRequest, match="no category_column"):
        plain.retrieve(RetrieveRequest(user_id=7, diversity_weight=1.0))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (RetrieveRequest(user_id=9), "nothing is known about user 9"),
        (RetrieveRequest(user_id=8), "user 8 is there, but version .* knows none of their items"),
        (RetrieveRequest(behaviors=[SECRET]), "knows none of the 1 behaviors"),
    ],
)
def test_users_without_interests_are_told_apart(numbers: Setting, request_: RetrieveRequest, reason: str) -> None:
    with pytest.raises(UnknownUser, match=reason):
        numbers.recommender.retrieve(request_)


def test_nothing_is_served_before_a_version_is_active_and_loaded(numbers: Setting) -> None:
    empty = Recommender(InMemoryVectorStore(), {}, ServingConfig(), numbers.metrics)
    with pytest.raises(NotReady, match="no model version is active"):
        empty.encoder()
    unloaded = Recommender(numbers.store, {}, ServingConfig(), numbers.metrics)
    with pytest.raises(NotReady, match="not loaded here yet"):
        unloaded.encoder()


def test_the_old_version_answers_until_the_new_one_is_loaded(numbers: Setting, tmp_path: Path) -> None:
    ask = RetrieveRequest(user_id=7, limit=5)
    numbers.recommender.retrieve(ask)
    second = numbers.publish(tmp_path / "2", 2)
    del numbers.encoders[second.model_version]
    numbers.clock.now += 2
    assert numbers.recommender.retrieve(ask).model_version == numbers.first.model_version
    numbers.encoders[second.model_version] = second
    numbers.clock.now += 2
    response = numbers.recommender.retrieve(ask)
    assert response.model_version == second.model_version
    assert [each.item_id for each in response.candidates] == numbers.best(second, [1, 2, 3], 5)


def test_a_version_dropped_since_it_was_looked_up_is_replaced_in_the_same_request(
    numbers: Setting, tmp_path: Path
) -> None:
    numbers.recommender.encoder()
    second = numbers.publish(tmp_path / "2", 2)
    numbers.store.drop_version(numbers.first.model_version)
    assert numbers.recommender.retrieve(RetrieveRequest(user_id=7)).model_version == second.model_version


def test_a_store_that_refuses_twice_is_an_error(numbers: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_settings: object) -> dict[int, UserRow]:
        raise VectorStoreError("broken")

    monkeypatch.setattr(numbers.store, "get_users", refuse)
    with pytest.raises(VectorStoreError, match="broken"):
        numbers.recommender.retrieve(RetrieveRequest(user_id=7))


def test_a_row_of_another_version_is_never_used(numbers: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = numbers.store.get_users(numbers.first.model_version, [7], strong=True).values()
    strange = dataclasses.replace(row, model_version="v2")
    monkeypatch.setattr(numbers.store, "get_users", lambda *_a, **_s: {7: strange})
    with pytest.raises(AssertionError, match="own version"):
        numbers.recommender.retrieve(RetrieveRequest(user_id=7))
