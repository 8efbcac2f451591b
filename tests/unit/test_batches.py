"""Several requests in one, users of an item, and the audit of what the index finds."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mind_dist.config import HttpConfig, ServingConfig
from mind_dist.errors import InvalidRequest, ServiceUnavailable, UnknownItem, UnknownUser
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import Filter, Hits, UserRow, Vectors
from mind_dist.observability import InMemoryMetrics
from mind_dist.retrieval.recall import found_share
from mind_dist.serving.recall_audit import LIMIT, RecallAudit
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.requests import RetrieveRequest, RetrieveResponse
from tests.toy_http import Setting
from tests.toy_serving import Clock

REQUESTS: list[dict[str, Any]] = [
    {"user_id": 7, "limit": 5},
    {"user_id": 5, "limit": 12, "merging": "budget"},
    {"user_id": 9},
    {"behaviors": [1, 2, 999], "limit": 7},
    {"user_id": 7, "limit": 6, "filter": {"genre": "war"}},
    {"user_id": 7, "filter": {"colour": "red"}},
    {"user_id": 5, "limit": 9, "merging": "round_robin", "filter": {"genre": "war"}},
    {"behaviors": [999]},
    {"user_id": 7, "limit": 0},
    {"behaviors": [4, 5], "user_id": 7},
    {"user_id": 5, "limit": 40, "exclude_seen": False},
]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    setting = Setting(tmp_path_factory.mktemp("batches"))
    setting.publish()
    return setting


class CountingStore(InMemoryVectorStore):
    """Counts the calls that a request makes."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.searches: list[int] = []

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        self.reads.append(len(user_keys))
        return super().get_users(model_version, user_keys, strong=strong)

    def search_items(
        self,
        model_version: str,
        queries: Vectors,
        limit: int,
        *,
        filter: Filter | None = None,
        columns: Sequence[str] = (),
    ) -> Sequence[Hits]:
        self.searches.append(len(queries))
        return super().search_items(model_version, queries, limit, filter=filter, columns=columns)


def test_each_of_several_requests_is_answered_as_it_is_alone(setting: Setting) -> None:
    answer = setting.client.post("/v1/retrieve/batch", json={"requests": REQUESTS})
    assert answer.status_code == 200, answer.text
    for request, found in zip(REQUESTS, answer.json()["answers"], strict=True):
        alone = setting.client.post("/v1/retrieve", json=request)
        expected = alone.json() if alone.status_code == 200 else {**alone.json(), "status": alone.status_code}
        assert found == near(expected)
    statuses = [found.get("status", 200) for found in answer.json()["answers"]]
    assert statuses == [200, 200, 404, 200, 200, 422, 200, 404, 422, 422, 200]


def near(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer whose scores need be equal but for the last bits, which follow the number of queries of a call."""
    candidates = [{**each, "score": pytest.approx(each["score"], rel=1e-5)} for each in answer.get("candidates", [])]
    return {**answer, "candidates": candidates} if candidates else answer


def test_too_many_or_malformed_requests_in_one_are_refused(setting: Setting) -> None:
    many = setting.client.post("/v1/retrieve/batch", json={"requests": [{"user_id": 7}] * 101})
    assert (many.status_code, many.json()["error"]) == (422, "requests: 101 of them, at most 100 (http.max_batch)")
    for requests, reason in (([], "requests: "), ([{"user_id": 7, "colour": 1}], "requests.0.colour: ")):
        answer = setting.client.post("/v1/retrieve/batch", json={"requests": requests})
        assert (answer.status_code, answer.json()["error"].startswith(reason)) == (422, True), answer.text


def test_requests_that_ask_alike_are_one_read_and_one_search(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.store = store = CountingStore()
    version = setting.publish()
    store.reads, store.searches = [], []
    recommender = Recommender(store, setting.encoders, ServingConfig(), InMemoryMetrics())
    alike = [RetrieveRequest(user_id=user, limit=limit) for user, limit in ((7, 9), (5, 10), (7, 11), (404, 10))]
    other = RetrieveRequest(behaviors=[1], limit=10, filter={"genre": "war"})
    *answers, unknown, filtered = recommender.retrieve_all([*alike, other])
    assert store.reads == [3]
    assert len(store.searches) == 2
    assert isinstance(unknown, UnknownUser)
    for one in (*answers, filtered):
        assert isinstance(one, RetrieveResponse)
        assert one.model_version == version
    assert [len(one.candidates) for one in answers if isinstance(one, RetrieveResponse)] == [9, 10, 11]


def test_several_requests_in_one_count_each_toward_the_rate(tmp_path: Path) -> None:
    setting = Setting(tmp_path, limits=HttpConfig(requests_per_s=2))
    setting.publish()
    many = {"requests": [{"user_id": 7, "limit": 1}] * 100}
    assert setting.client.post("/v1/retrieve/batch", json=many).status_code == 200
    refused = setting.client.post("/v1/retrieve", json={"user_id": 7})
    assert (refused.status_code, int(refused.headers["retry-after"]) > 9) == (429, True)


class AwayStore(InMemoryVectorStore):
    """A store that can go away; whoever asks then waits first for `held` to be set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked, self.held = threading.Event(), threading.Event()

    def active_version(self) -> str | None:
        if self.is_away:
            self.asked.set()
            self.held.wait(10)
            raise ServiceUnavailable("Milvus", "toy", 1.0)
        return super().active_version()


def test_while_one_request_looks_for_the_active_version_others_go_on_with_the_known_one(tmp_path: Path) -> None:
    setting, clock = Setting(tmp_path), Clock()
    setting.store = store = AwayStore()
    version = setting.publish()
    recommender = Recommender(store, setting.encoders, ServingConfig(), InMemoryMetrics(), clock)
    assert recommender.encoder().model_version == version
    store.is_away = True
    clock.now += 2
    with ThreadPoolExecutor() as threads:
        looking = threads.submit(recommender.encoder)
        assert store.asked.wait(10)
        assert recommender.encoder().model_version == version
        store.held.set()
        with pytest.raises(ServiceUnavailable):
            looking.result()
        with pytest.raises(ServiceUnavailable):
            recommender.encoder(sure=True)
    store.is_away = False
    assert recommender.encoder(sure=True).model_version == version


def test_users_near_an_item_are_those_with_the_nearest_interest(setting: Setting) -> None:
    [encoder] = setting.encoders.values()
    rows = setting.store.get_users(encoder.model_version, [5, 7], strong=True)
    for item in (0, 17, 44):
        vector = encoder.item_vectors[np.searchsorted(encoder.item_keys, item)]
        scores = {user: row.interests @ vector for user, row in rows.items()}
        expected = [
            (user, int(np.argmax(score)))
            for user, score in sorted(scores.items(), key=lambda pair: -pair[1].max())
            if score.max() > 0
        ]
        answer = setting.client.post(f"/v1/items/{item}/users", json={"limit": 5})
        assert [(each["user_id"], each["interest"]) for each in answer.json()["users"]] == expected
        for each in answer.json()["users"]:
            assert each["user_key"] == each["user_id"]
            assert each["score"] == pytest.approx(scores[each["user_id"]].max(), rel=1e-5)
    assert len(setting.client.post("/v1/items/44/users").json()["users"]) <= 2
    unknown = setting.client.post("/v1/items/999/users")
    assert (unknown.status_code, "no vector of item 999" in unknown.json()["error"]) == (404, True)
    for path, body in (("/v1/items/x/users", {}), ("/v1/items/1/users", {"limit": 0})):
        assert setting.client.post(path, json=body).status_code == 422
    with pytest.raises(UnknownItem):
        setting.recommender.similar_users(999, 5)
    with pytest.raises(InvalidRequest):
        setting.recommender.similar_users("x", 5)


def test_where_ids_are_strings_users_near_an_item_are_named_by_key(tmp_path: Path) -> None:
    setting = Setting(tmp_path, id_type="string")
    setting.publish()
    users = [each for item in range(20) for each in setting.recommender.similar_users(f"item-{item}", 5).users]
    assert users
    assert {each.user_key for each in users} <= {5, 7}
    assert {each.user_id for each in users} == {None}


def test_the_audit_measures_what_the_index_finds(tmp_path: Path) -> None:
    setting, metrics = Setting(tmp_path), InMemoryMetrics()
    setting.publish()
    [encoder] = setting.encoders.values()
    audit = RecallAudit(setting.store, metrics, 1.0, random.Random(1))
    audit.start()
    audited = Recommender(setting.store, setting.encoders, ServingConfig(), metrics, audit=audit)
    audited.retrieve(RetrieveRequest(user_id=7))
    audit.offer(encoder, [np.empty((0, 8), dtype=np.float32)])  # a user without interests has nothing to find
    audit.close(10)
    assert metrics.observed["mind_dist_ann_recall"] == [1.0]
    never = RecallAudit(setting.store, metrics, 0.0)
    for _ in range(100):
        never.offer(encoder, [encoder.item_vectors[:1]])
    full = RecallAudit(setting.store, metrics, 1.0)  # not started: what waits is bounded
    full.offer(encoder, [encoder.item_vectors[:1]] * 100)
    full.start()
    full.close(10)
    assert 1 < len(metrics.observed["mind_dist_ann_recall"]) < 10
    assert LIMIT == 50


def test_the_found_share_counts_what_is_as_good_as_the_truth() -> None:
    rng = np.random.default_rng(3)
    keys = np.arange(0, 400, 2)
    vectors = rng.standard_normal((200, 4)).astype(np.float32)
    queries = rng.standard_normal((3, 4)).astype(np.float32)
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1)[:, :10]
    whole = [Hits(keys[row], scores[at][row]) for at, row in enumerate(best)]
    assert found_share(queries, whole, keys, vectors, 10) == 1.0
    half = [Hits(hits.keys[::2], hits.scores[::2]) for hits in whole]
    assert found_share(queries, half, keys, vectors, 10) == 0.5
    strangers = [Hits(np.array([1, 999]), np.array([9.0, 9.0], dtype=np.float32)) for _ in queries]
    assert found_share(queries, strangers, keys, vectors, 10) == 0.0
    assert found_share(queries[:0], [], keys, vectors, 10) == 1.0
