"""Candidates in a context: the user's behaviors are encoded anew with it, as of the version that is active."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmarks.planted_dataset import PlantedUser, write_planted
from mind_dist.config import ServingConfig
from mind_dist.encoder import InterestEncoder, UserInterests
from mind_dist.errors import InvalidRequest
from mind_dist.evaluation import HeldOut, evaluate_version, in_context, of_model
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.keys import EventFeatures, Value, behavior_key, context_key
from mind_dist.limits import MAX_NAME
from mind_dist.log.codec import encode_event
from mind_dist.observability import InMemoryMetrics
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence, no_keys
from mind_dist.serving.context_body import LONGEST_TEXT, LONGEST_VALUE, MAX_CONTEXT, Context
from mind_dist.serving.event_sender import SentEvent
from mind_dist.serving.http import build_api
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.requests import RetrieveRequest
from tests.toy_views import fill_users
from tests.versions import loaded, tiny_version

READ = EventFeatures(behavior=("event_type",), context=("page", "hour"))
VALUES = [("event_type", "buy"), ("event_type", "view"), ("page", "home"), ("page", "cart"), ("hour", "7")]
KINDS = [[behavior_key("event_type", kind)] for kind in ("view", "view", "buy", "view")]
SAID = {"event_type": ["buy", "view", "rent"], "page": ["home", "cart"], "hour": ["7", "8"], "device": ["phone", "tv"]}
USER = BehaviorSequence(7, np.array([1, 2, 3, 4]), np.arange(4), behavior_keys=np.array(KINDS))


class Setting:
    """A published version that reads event types, pages and hours, and a user of four behaviors."""

    def __init__(self, directory: Path, features: EventFeatures = READ) -> None:
        uri = tiny_version(directory, features=features, values=VALUES)
        self.encoder = loaded(uri)
        self.store = InMemoryVectorStore()
        user = USER if features.behavior else dataclasses.replace(USER, behavior_keys=np.empty((0, 0), np.int64))
        publish(self.store, self.encoder, uri)
        fill_users(self.store, self.encoder, self.encoder.model_version, [user])
        encoders = {self.encoder.model_version: self.encoder}
        self.sent: list[SentEvent] = []
        self.recommender = Recommender(self.store, encoders, ServingConfig(), InMemoryMetrics())
        self.api = build_api(
            self.recommender, lambda events, _headers: self.sent.extend(events), max_clock_skew_ms=3_600_000
        )

    def candidates(self, **request: Any) -> list[tuple[int | str, float]]:
        answer = self.recommender.retrieve(RetrieveRequest(limit=10, **request))
        return [(each.item_id, each.score) for each in answer.candidates]

    def best(self, user: UserInterests) -> list[tuple[int, float]]:
        """Return the best items for some interests, the history left out, by brute force."""
        scores = (user.vectors @ self.encoder.item_vectors.T).max(axis=0)
        ranking = [(int(self.encoder.item_keys[at]), float(scores[at])) for at in np.argsort(-scores, kind="stable")]
        return [each for each in ranking if each[0] not in USER.item_keys][:10]

    def post(self, path: str, body: str) -> httpx.Response:
        return asyncio.run(self._post(path, body))

    async def _post(self, path: str, body: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def keys_of(page: str | None, hour: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([context_key("page", page), context_key("hour", hour)])


def same(found: list[tuple[int | str, float]], expected: list[tuple[int, float]]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(one[0] == other[0] and one[1] == pytest.approx(other[1], abs=1e-6) for one, other in pairs)


@pytest.mark.parametrize(
    ("context", "keys"),
    [
        ({"page": "home", "hour": 7}, keys_of("home", "7")),
        ({"page": "cart"}, keys_of("cart", None)),
        ({"hour": "7", "page": ""}, keys_of(None, "7")),
    ],
)
def test_a_users_behaviors_are_encoded_anew_in_a_context(
    setting: Setting, context: dict[str, Value], keys: np.ndarray[Any, np.dtype[np.int64]]
) -> None:
    [user] = setting.encoder.encode([dataclasses.replace(USER, context_keys=keys)])
    found = setting.candidates(user_id=7, context=context)
    assert same(found, setting.best(user))
    assert found != setting.candidates(user_id=7)


def test_a_bare_history_is_asked_in_a_context(setting: Setting) -> None:
    bare = dataclasses.replace(USER, behavior_keys=np.empty((0, 0), np.int64), context_keys=keys_of("cart", None))
    [user] = setting.encoder.encode([bare])
    assert same(setting.candidates(behaviors=[1, 2, 3, 4], context={"page": "cart"}), setting.best(user))


@pytest.mark.parametrize("context", [None, {}, {"page": "never seen", "hour": 23}])
def test_without_a_context_that_is_known_candidates_are_those_of_the_stored_vectors(
    setting: Setting, context: dict[str, Value] | None
) -> None:
    [row] = setting.store.scan_users(setting.encoder.model_version)
    assert same(setting.candidates(user_id=7, context=context), setting.best(UserInterests(row.interests, row.weights)))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"page": "home", "colour": "red"}, "context.colour: version V knows no such context; it knows page, hour"),
    ({"page": ["home"]}, "context.page: must be a text, an integer or a boolean"),
    ({"page": None}, "context.page: must be a text, an integer or a boolean"),
    ({"hour": 7.5}, "context.hour: must be a text, an integer or a boolean"),
    ({"page": "x" * 20_000}, "context.page: must have at most 1,024 characters"),
    ({"page": "\ud800"}, "context.page: must be valid Unicode text"),
    ({"\ud800": 1}, "context: must be valid Unicode text"),
    ({"n" * 300: 1}, "context: names have at most 255 characters"),
    ({f"name{number}": 1 for number in range(65)}, "context: Dictionary should have at most 64 items"),
]


@pytest.mark.parametrize(("context", "reason"), BAD, ids=[reason[:60] for _, reason in BAD])
def test_a_bad_context_is_refused_with_one_line_in_requests(
    setting: Setting, context: dict[str, Any], reason: str
) -> None:
    response = setting.post("/v1/retrieve", json.dumps({"user_id": 7, "context": context}))
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert error.startswith(reason.replace("V", setting.encoder.model_version)), error
    assert "\n" not in error


@pytest.mark.parametrize(("context", "reason"), BAD[1:], ids=[reason[:60] for _, reason in BAD[1:]])
def test_a_bad_context_is_refused_with_one_line_in_events(
    setting: Setting, context: dict[str, Any], reason: str
) -> None:
    event = {"user_id": 7, "item_id": 3, "context": context}
    response = setting.post("/v1/events", json.dumps({"events": [event]}))
    assert response.status_code == 422, response.text
    assert response.json()["error"].startswith(f"events.0.{reason}")
    assert not setting.sent


def test_a_context_that_is_no_object_is_refused(setting: Setting) -> None:
    response = setting.post("/v1/retrieve", '{"user_id": 7, "context": "home"}')
    assert (response.status_code, response.json()["error"]) == (422, "context: Input should be a valid dictionary")


def test_a_version_without_contexts_says_so(tmp_path: Path) -> None:
    plain = Setting(tmp_path, EventFeatures())
    with pytest.raises(
        InvalidRequest, match=r"context.page: version \S+ knows no such context; it was trained without any"
    ):
        plain.candidates(user_id=7, context={"page": "home"})
    assert plain.candidates(user_id=7, context={}) == plain.candidates(user_id=7)


def test_the_largest_context_that_is_taken_fits_into_a_record() -> None:
    context = {f"{number:02d}" + "\x00" * (MAX_NAME - 2): "\x00" * LONGEST_VALUE for number in range(MAX_CONTEXT)}
    taken: dict[str, Value] = TypeAdapter(Context).validate_python(context)
    longest = "\x00" * LONGEST_TEXT
    assert len(encode_event(longest, longest, 2**62, longest, taken)) < 1_000_000


def test_events_keep_what_they_say(setting: Setting) -> None:
    event = {"user_id": 7, "item_id": 3, "event_type": "buy", "context": {"page": "home", "hour": 7, "paid": True}}
    assert setting.post("/v1/events", json.dumps({"events": [event]})).status_code == 202
    assert setting.sent[0].context == {"page": "home", "hour": 7, "paid": True}


def test_evaluation_reads_what_the_model_reads_and_asks_in_the_context_of_what_followed(tmp_path: Path) -> None:
    generator, users = np.random.default_rng(3), []
    for user in range(1, 41):
        items = generator.integers(0, 60, size=10)
        values = {name: [known[at] for at in generator.integers(len(known), size=10)] for name, known in SAID.items()}
        users.append(PlantedUser(BehaviorSequence(user, items, np.arange(10)), values))
    kept = EventFeatures(behavior=("device", "event_type"), context=("hour", "page"))
    dataset = write_planted(tmp_path / "dataset", users, 60, kept)
    read = EventFeatures(behavior=("event_type",), context=("page",))
    encoder = InterestEncoder.load(tiny_version(tmp_path / "version", features=read, values=VALUES))
    found = evaluate_version(dataset, encoder).metrics["model"]
    hits: dict[str, list[bool]] = {"in_context": [], "in_none": []}
    for tested in dataset.sequences("test", features=read):
        history = tested.slice(0, 9)
        assert history.behavior_keys.shape == (9, 1)
        for name, context in (("in_context", tested.moment_keys[9]), ("in_none", no_keys())):
            asked = dataclasses.replace(history, context_keys=context)
            (ranked,) = of_model(encoder).recommend([asked], 50, exclude_seen=False)
            hits[name].append(bool(np.isin(tested.item_keys[9], ranked)))
    assert {name: found[f"recall@50_{name}"] for name in hits} == {name: np.mean(hits[name]) for name in hits}
    assert found["recall@50_in_none"] == found["recall@50"]


def test_a_user_is_asked_for_what_followed_in_the_context_of_the_first() -> None:
    moments = np.array([[1, 1], [2, 2], [2, 3], [2, 2]])
    user = BehaviorSequence(1, np.array([5, 6, 7, 8]), np.arange(4), moment_keys=moments)
    [asked] = in_context([HeldOut(user.slice(0, 1), user.slice(1, 4))])
    assert asked.history.context_keys.tolist() == [2, 2]
    assert asked.targets.tolist() == [6, 8]
