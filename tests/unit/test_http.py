import json
import re
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from mind_dist.encoder import InterestEncoder
from mind_dist.keys import id_key
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence
from mind_dist.retrieval import retrieve
from mind_dist.serving.bodies import RetrieveBody
from mind_dist.serving.health import Problem
from tests.reference import retrieval_loops
from tests.toy_http import Client, Setting
from tests.toy_views import fill_users
from tests.versions import original_id


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


@pytest.fixture
def client(setting: Setting) -> Client:
    setting.publish()
    return setting.client


def test_readiness_follows_the_active_version(setting: Setting) -> None:
    assert setting.client.get("/healthz").json()["status"] == "ok"
    waiting = setting.client.get("/readyz")
    expected = {"error": "no model version is active: publish one", "warnings": []}
    assert (waiting.status_code, waiting.json()) == (503, expected)
    assert setting.client.post("/v1/retrieve", json={"user_id": 7}).status_code == 503
    version = setting.publish()
    ready = setting.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "model_version": version, "warnings": []})


def test_readiness_tells_what_is_wrong_whether_requests_are_answered_or_not(setting: Setting) -> None:
    setting.problems = [Problem("active_version_not_loaded", "recommender", "v7 is torn")]
    warnings = [{"name": "active_version_not_loaded", "source": "recommender", "message": "v7 is torn"}]
    unready = setting.client.get("/readyz")
    assert (unready.status_code, unready.json()["warnings"]) == (503, warnings)
    setting.publish()
    ready = setting.client.get("/readyz")
    assert (ready.status_code, ready.json()["warnings"]) == (200, warnings)


def test_interests_of_a_user(client: Client) -> None:
    view = client.get("/v1/users/7/interests").json()
    assert (view["user_id"], view["behaviors"], view["timestamps_ms"]) == (7, [1, 2, 3], [10, 20, 30])
    assert len(view["interests"]) == len(view["weights"])


def test_candidates_for_a_user_and_for_behaviors(client: Client) -> None:
    of_user = client.post("/v1/retrieve", json={"user_id": 7, "limit": 5}).json()
    of_behaviors = client.post("/v1/retrieve", json={"behaviors": [1, 2, 3, 999], "limit": 5}).json()
    assert len(of_user["candidates"]) == 5
    assert of_user["candidates"] == of_behaviors["candidates"]
    assert of_user["candidates"][0].keys() == {"item_id", "score", "interest"}
    assert (of_user["unknown_items"], of_behaviors["unknown_items"]) == (0, 1)


@pytest.mark.parametrize(
    "filter",
    [
        {"genre": "drama"},
        {"genre": ["drama", "war"]},
        {"genre": {"in": ["drama"]}},
        {"genre": {"not_in": ["drama"]}},
        {"genre": {"gte": "d", "lt": "war", "null": False}},
        {"genre": {"null": True}},
    ],
    ids=repr,
)
def test_a_filter_means_over_http_what_it_means_in_the_library(
    setting: Setting, client: Client, filter: dict[str, Any]
) -> None:
    answer = client.post("/v1/retrieve", json={"user_id": 7, "limit": 50, "exclude_seen": False, "filter": filter})
    [version] = setting.encoders
    interests = np.array(client.get("/v1/users/7/interests").json()["interests"], dtype=np.float32)
    wanted = retrieve(setting.store, version, interests, 50, filter=filter)
    assert [each["item_id"] for each in answer.json()["candidates"]] == [each.item_key for each in wanted]


@pytest.mark.parametrize("merging", ["budget", "round_robin"])
def test_interests_share_the_candidates_when_asked_so(client: Client, merging: str) -> None:
    weights = client.get("/v1/users/5/interests").json()["weights"]
    assert len(weights) == 3
    answer = client.post("/v1/retrieve", json={"user_id": 5, "limit": 9, "merging": merging}).json()
    given = [each["interest"] for each in answer["candidates"]]
    heaviest = sorted(range(len(weights)), key=lambda interest: -weights[interest])
    if merging == "budget":
        assert [given.count(interest) for interest in range(len(weights))] == retrieval_loops.budgets(9, weights)
    else:
        assert given == list(islice(cycle(heaviest), 9))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ('{"user_id": 9}', 404, "nothing is known about user 9"),
        ('{"behaviors": [999]}', 404, "none of the 1 behaviors"),
        ('{"user_id": 7, "limit": 0}', 422, "limit 0"),
        ('{"user_id": 7, "limit": "many"}', 422, "limit: "),
        ('{"user_id": 7, "diversity_weight": NaN}', 422, "diversity_weight nan"),
        ('{"user_id": 7, "merging": "median"}', 422, "merging: Input should be 'max', 'budget' or 'round_robin'"),
        ('{"user_id": 7, "merging": "budget", "diversity_weight": 1}', 422, "not with budget"),
        ('{"user_id": 7, "filter": {"colour": "red"}}', 422, "unknown column"),
        (
            '{"user_id": 7, "filter": {"genre": {"not": "war"}}}',
            422,
            "filter.genre.not: Extra inputs are not permitted",
        ),
        ('{"user_id": 7, "filter": {"genre": {}}}', 422, "filter genre: needs at least one of lt, lte, gt"),
        ('{"user_id": 7, "filter": {"genre": null}}', 422, "filter.genre: must be a text or a number"),
        ('{"user_id": 7, "filter": {"genre": [["war"]]}}', 422, "filter.genre.0: must be a text or a number"),
        ('{"user_id": 7, "filter": {"genre": {"lt": null}}}', 422, "filter.genre.lt: must be a text or a number"),
        ('{"user_id": 7, "filter": {"genre": {"lt": 3}}}', 422, "filter genre.lt: 3 is not allowed in a column of kin"),
        ('{"user_id": 7, "filter": {"genre": {"in": "war"}}}', 422, "filter.genre.in: Input should be a valid list"),
        ('{"user_id": 7, "filter": {"genre": {"in": []}}}', 422, "filter genre.in: needs at least one value"),
        ('{"user_id": 7, "filter": {"genre": {"is_in": ["war"]}}}', 422, "filter.genre.is_in: Extra inputs"),
        ('{"user_id": 7, "filter": {"genre": {"null": 1}}}', 422, "filter.genre.null: Input should be a valid boolean"),
        (
            json.dumps({"user_id": 7, "filter": {"genre": [str(i) for i in range(1001)]}}),
            422,
            "filter.genre: List should have at most 1000 items",
        ),
        ('{"user_id": 7.5}', 422, "user_id"),
        ('{"user_id": true}', 422, "user_id"),
        ('{"user_id": 99999999999999999999}', 422, "user_id: must fit 64 bits"),
        ('{"behaviors": []}', 422, "behaviors: "),
        ('{"user_id": 7, "colour": 1}', 422, "colour"),
        ("{}", 422, "either user_id or behaviors"),
        ("not json", 422, "JSON"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_requests_say_why(client: Client, body: str, status: int, reason: str) -> None:
    response = client.post("/v1/retrieve", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, reason in response.json()["error"]) == (status, True), response.text


def test_bad_paths_say_why(client: Client) -> None:
    assert client.get("/v1/users/seven/interests").json()["error"].startswith("user_id: must be an integer")
    assert client.get("/v1/users/9/interests").status_code == 404
    assert client.get("/v1/nothing").json() == {"error": "Not Found"}


@pytest.mark.parametrize("user_id", ["9" * 5_000, "-" + "9" * 4_301, "0" * 5_000 + "1", "9" * 20])
def test_a_user_id_with_too_many_digits_is_refused(client: Client, user_id: str) -> None:
    assert client.get(f"/v1/users/{user_id}/interests").status_code == 422


@pytest.mark.parametrize(
    "wrong", [{"user_id": "u" * 900_000}, {"event_type": "v" * 20_000}, {"timestamp_ms": True}, {"timestamp_ms": "1"}]
)
def test_an_event_that_no_record_can_hold_is_refused(client: Client, wrong: dict[str, Any]) -> None:
    event = {"user_id": 7, "item_id": 3, **wrong}
    assert client.post("/v1/events", json={"events": [event]}).status_code == 422


@pytest.mark.parametrize("user_id", ["shop/7", "a/b/interests", "/", "7?x=1#y", "ü %2F"])
def test_a_user_is_reached_by_any_id(tmp_path: Path, user_id: str) -> None:
    setting = Setting(tmp_path, id_type="string")
    encoder = InterestEncoder.load(setting.uri)
    items = np.array([id_key(original_id(item, "string"), "string") for item in (1, 2)])
    user = BehaviorSequence(id_key(user_id, "string"), items, np.array([10, 20]))
    publish(setting.store, encoder, setting.uri)
    fill_users(setting.store, encoder, encoder.model_version, [user])
    setting.encoders[encoder.model_version] = encoder
    view = setting.client.get(f"/v1/users/{quote(user_id, safe='')}/interests")
    assert (view.status_code, view.json()["user_id"]) == (200, user_id)
    assert view.json()["behaviors"] == ["item-1", "item-2"]
    if "?" not in user_id and "%" not in user_id:
        assert setting.client.get(f"/v1/users/{user_id}/interests").json() == view.json()


def test_events_are_accepted_when_the_log_has_them(setting: Setting, client: Client) -> None:
    first = {"user_id": 7, "item_id": 4, "timestamp_ms": 800_000_000_000}
    events = [first, {"user_id": 7, "item_id": 5, "event_type": "buy"}]
    response = client.post("/v1/events", json={"events": events})
    assert (response.status_code, response.json()) == (202, {"accepted": 2})
    assert [event.item_id for event in setting.sent] == [4, 5]
    assert setting.sent[0].timestamp_ms == 800_000_000_000
    assert setting.sent[1].timestamp_ms > 1_600_000_000_000
    setting.log_is_away = True
    assert client.post("/v1/events", json={"events": events}).status_code == 503


def test_events_are_accepted_while_the_index_is_away(setting: Setting, client: Client) -> None:
    setting.index_is_away = True
    response = client.post("/v1/events", json={"events": [{"user_id": 7, "item_id": 4}]})
    assert response.status_code == 202
    assert client.post("/v1/retrieve", json={"user_id": 7}).status_code == 503


def test_events_of_another_id_type_are_refused(setting: Setting, client: Client) -> None:
    response = client.post("/v1/events", json={"events": [{"user_id": "x", "item_id": 4}]})
    assert response.status_code == 422
    assert response.json()["error"] == "events.0.user_id: must be an integer, not str"
    assert (
        client.post("/v1/events", json={"events": [{"user_id": 7, "item_id": 4, "timestamp_ms": -1}]}).status_code
        == 422
    )
    assert setting.sent == []


HOUR_MS = 3_600_000
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"timestamp_ms": time.time_ns() // 1_000_000 + 2 * HOUR_MS}, "timestamp_ms: "),
        ({"timestamp_ms": time.time_ns() // 1_000}, "timestamp_ms: "),
        ({"timestamp_ms": time.time_ns() // 1_000_000_000}, "timestamp_ms: "),
        ({"user_id": -(2**63)}, f"user_id: must be between {FIRST_KEY} and {LAST_KEY}"),
        ({"user_id": FIRST_KEY - 1}, f"user_id: must be between {FIRST_KEY} and {LAST_KEY}"),
        ({"user_id": 2**63 - 1}, f"user_id: must be between {FIRST_KEY} and {LAST_KEY}"),
        ({"user_id": 2**63}, "user_id: must fit 64 bits"),
        ({"item_id": -(2**63)}, f"item_id: must be between {FIRST_KEY} and {LAST_KEY}"),
        ({"item_id": 2**63 - 1}, f"item_id: must be between {FIRST_KEY} and {LAST_KEY}"),
    ],
)
def test_what_would_be_poison_in_the_log_is_refused(
    setting: Setting, client: Client, fields: dict[str, int], reason: str
) -> None:
    good, bad = {"user_id": 7, "item_id": 4}, {"user_id": 7, "item_id": 4, **fields}
    response = client.post("/v1/events", json={"events": [good, bad]})
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"events.1.{reason}")
    assert setting.sent == []


def test_half_a_character_is_refused_in_events_and_ids(tmp_path: Path) -> None:
    setting = Setting(tmp_path, id_type="string")
    setting.publish()
    for field in ("user_id", "item_id", "event_type"):
        event = json.dumps({"user_id": "u", "item_id": "i", field: "\ud800"})
        response = setting.client.post("/v1/events", content=f'{{"events": [{event}]}}', headers=JSON)
        assert (response.status_code, field in response.json()["error"]) == (422, True), response.text
        assert "must be valid Unicode text" in response.json()["error"]
    assert setting.client.post("/v1/retrieve", content='{"user_id": "\\ud800"}', headers=JSON).status_code == 422
    assert setting.sent == []


def test_a_user_in_json_quotes_is_refused(tmp_path: Path) -> None:
    setting = Setting(tmp_path, id_type="string")
    setting.publish()
    response = setting.client.post("/v1/events", json={"events": [{"user_id": '"u"', "item_id": "i"}]})
    assert response.status_code == 422
    assert response.json()["error"].startswith("events.0.user_id: must not be a JSON string in quotes")


def test_an_event_slightly_ahead_of_our_clock_is_accepted(setting: Setting, client: Client) -> None:
    ahead_ms = time.time_ns() // 1_000_000 + HOUR_MS // 2
    event = {"user_id": FIRST_KEY, "item_id": LAST_KEY, "timestamp_ms": ahead_ms}
    assert client.post("/v1/events", json={"events": [event]}).status_code == 202
    assert [event.timestamp_ms for event in setting.sent] == [ahead_ms]


def test_the_interface_is_documented_with_examples(client: Client) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/v1/users/{user_id}/interests", "/v1/retrieve", "/v1/events", "/healthz", "/readyz"} <= schema[
        "paths"
    ].keys()
    assert schema["components"]["schemas"]["RetrieveBody"]["properties"]["limit"]["examples"] == [10]
    assert {"lt", "lte", "gt", "gte", "in", "not_in", "null"} == schema["components"]["schemas"]["Operators"][
        "properties"
    ].keys()
    assert set(schema["paths"]["/v1/retrieve"]["post"]["responses"]) >= {"200", "404", "422", "503"}
    examples = schema["paths"]["/v1/retrieve"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        RetrieveBody.model_validate(example["value"])


def test_items_that_are_gone_or_still_to_come_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    now_ms, hour_ms = time.time_ns() // 1_000_000, 3_600_000
    gone, to_come = dict.fromkeys(range(10, 20), (0, now_ms)), {20: (now_ms + hour_ms, now_ms + 2 * hour_ms)}
    setting = Setting(tmp_path, gone | to_come)
    setting.publish()

    def found(**body: Any) -> set[int]:
        response = setting.client.post("/v1/retrieve", json={"user_id": 7, "limit": 60, **body})
        assert response.status_code == 200, response.text
        return {candidate["item_id"] for candidate in response.json()["candidates"]}

    everything = set(range(60)) - {1, 2, 3}
    assert found() == everything - set(gone) - set(to_come)
    assert found(available_only=False) == everything
    assert found(at_ms=now_ms + hour_ms) == everything - set(gone)
    assert found(at_ms=0) == everything - set(to_come)
    assert found(filter={"genre": "war"}) == {item for item in everything - set(gone) - {20} if item % 3 == 2}
    refused = setting.client.post("/v1/retrieve", json={"user_id": 7, "at_ms": -1})
    assert (refused.status_code, refused.json()["error"].split(":")[0]) == (422, "at_ms")


def test_the_documentation_loads_nothing_from_elsewhere(client: Client) -> None:
    home = client.get("/")
    assert (home.status_code, home.headers["location"]) == (307, "docs")
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200, address
    assert "http://" not in page.text
    assert "https://" not in page.text
