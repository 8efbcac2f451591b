"""What HTTP refuses, and with which reason: size, rate, load, token, keys, and bodies that Python itself gives up on."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from jobs.serve import Serve, check_guarded, main
from mind_dist.config import Addresses, HttpConfig, ServingConfig
from mind_dist.errors import ConfigError, KeyInUse, Overloaded, ServiceUnavailable, TooFast
from mind_dist.limits import FIRST_KEY
from mind_dist.ports import is_loopback
from mind_dist.serving.idempotency import IdempotencyKeys
from mind_dist.serving.lanes import Lane
from mind_dist.serving.rate import RateLimit
from tests.toy_http import Setting
from tests.toy_serving import Clock

JSON = {"content-type": "application/json"}
EVENT = {"user_id": 7, "item_id": 4}


def made(directory: Path, limits: HttpConfig | None = None, token: str = "") -> Setting:
    setting = Setting(directory, limits=limits, token=token)
    setting.publish()
    return setting


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return made(tmp_path_factory.mktemp("limits"), HttpConfig(max_body_bytes=100_000, max_events=3))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f'{{"user_id": {"9" * 5_000}}}', "JSON decode error"),
        (f'{{"user_id": 7, "filter": {"[" * 50_000}}}', "JSON decode error"),
        (b'{"user_id": "\xff"}', "JSON decode error"),
        ('{"user_id": 7, "\\ud800": 1}', "unable to parse raw data as a unicode string"),
        ('{"user_id": 7, "filter": {"\\ud800": 1}}', "unknown column"),
        ('{"user_id": 7, "merging": "\\ud800"}', "merging: "),
        (
            json.dumps({"user_id": 7, "filter": {f"c{i}": 1 for i in range(62)}}),
            "filter: Dictionary should have at most",
        ),
        (json.dumps({"user_id": 7, "filter": {"genre": {"not_in": ["a"] * 1001}}}), "filter.genre.not_in: List should"),
        (json.dumps({"user_id": FIRST_KEY - 1}), "user_id: must be between"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_body_that_cannot_be_taken_is_refused_with_its_reason(
    setting: Setting, body: str | bytes, reason: str
) -> None:
    answer = setting.client.post("/v1/retrieve", content=body, headers=JSON)
    assert (answer.status_code, reason in answer.json()["error"]) == (422, True), answer.text


def test_the_marker_of_a_version_is_nobody(setting: Setting) -> None:
    answer = setting.client.get(f"/v1/users/{FIRST_KEY - 1}/interests")
    assert (answer.status_code, answer.json()["error"].startswith("user_id: must be between")) == (422, True)


def test_too_large_a_body_is_refused_before_it_is_read(setting: Setting) -> None:
    declared = setting.client.post("/v1/events", content=b"[" * 100_001, headers=JSON)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"[" * 10_000

    streamed = setting.client.post("/v1/events", content=pieces(), headers=JSON)
    for answer in (declared, streamed):
        assert (answer.status_code, "100,000 bytes (http.max_body_bytes)" in answer.json()["error"]) == (413, True)


def test_more_events_than_configured_are_refused(setting: Setting) -> None:
    answer = setting.client.post("/v1/events", json={"events": [EVENT] * 4})
    assert (answer.status_code, answer.json()["error"]) == (422, "events: 4 of them, at most 3 (http.max_events)")
    assert setting.client.post("/v1/events", json={"events": [EVENT] * 3}).status_code == 202


def test_requests_and_events_above_the_rate_are_told_when_to_come_again(tmp_path: Path) -> None:
    slow = made(tmp_path, HttpConfig(requests_per_s=3, events_per_s=2))
    answers = [slow.client.post("/v1/events", json={"events": [EVENT] * 2}) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {202, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert "a second: try again in" in answer.json()["error"]
    assert slow.client.get("/healthz").status_code == 200


def test_a_rate_lets_through_a_second_s_worth_at_once_and_then_as_much_as_time_brings() -> None:
    clock = Clock()
    limit = RateLimit(10, "events", clock)
    limit.take(10)
    with pytest.raises(TooFast) as refused:
        limit.take(5)
    assert refused.value.wait_s == pytest.approx(0.5)
    clock.now += 0.5
    limit.take(5)
    clock.now += 60
    limit.take(25)  # more than ever fit goes through when the bucket is full
    with pytest.raises(TooFast):
        limit.take(1)
    clock.now += 1.7
    limit.take(1)
    RateLimit(0, "events", clock).take(10**9)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "secret", "Bearer secret ", "Bearer sécret"])
def test_without_the_token_only_health_and_documentation_answer(tmp_path: Path, given: str | None) -> None:
    guarded = made(tmp_path, token="secret")
    headers = {} if given is None else {"authorization": given.encode()}
    for path in ("/v1/users/7/interests", "/v1/nothing"):
        answer = guarded.client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "secret" not in answer.text
    assert [guarded.client.get(path, headers=headers).status_code for path in ("/healthz", "/readyz", "/docs")] == [
        200
    ] * 3


def test_the_token_opens_everything_and_the_documentation_asks_for_it(tmp_path: Path) -> None:
    guarded = made(tmp_path, token="secret")
    assert guarded.client.get("/v1/users/7/interests", headers={"authorization": "Bearer secret"}).status_code == 200
    schema = guarded.client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert schema["paths"]["/v1/events"]["post"]["security"] == [{"HTTPBearer": []}]
    assert set(schema["paths"]["/v1/events"]["post"]["responses"]) >= {"202", "401", "409", "413", "422", "429", "503"}


def test_events_sent_again_under_their_key_are_stored_once(setting: Setting) -> None:
    before = len(setting.sent)

    def post(key: str, *events: Mapping[str, int]) -> httpx.Response:
        return setting.client.post("/v1/events", json={"events": list(events)}, headers={"Idempotency-Key": key})

    assert [post("first", EVENT, EVENT).json() for _ in range(3)] == [{"accepted": 2}] * 3
    assert len(setting.sent) == before + 2
    assert setting.headers[-1] == [("idempotency-key", b"first")]
    other = post("first", {**EVENT, "item_id": 5})
    assert (other.status_code, "came with other events before" in other.json()["error"]) == (422, True)
    assert post("k" * 256, EVENT).status_code == 422
    setting.log_is_away = True
    assert post("second", EVENT).status_code == 503
    setting.log_is_away = False
    assert post("second", EVENT).status_code == 202
    assert len(setting.sent) == before + 3


def test_times_that_a_request_leaves_out_stay_the_same_when_it_is_sent_again() -> None:
    clock = Clock()
    keys = IdempotencyKeys(60, 2, clock)
    with suppress(ServiceUnavailable), keys.request("a", b"x", now_ms=1000) as first:
        assert (first.first_ms, first.is_done) == (1000, False)
        with pytest.raises(KeyInUse), keys.request("a", b"x", now_ms=1500):
            pass
        raise ServiceUnavailable("Kafka", "toy", 1.0)
    with keys.request("a", b"x", now_ms=2000) as again:
        assert (again.first_ms, again.is_done) == (1000, False)
    with keys.request("a", b"x", now_ms=3000) as done:
        assert (done.first_ms, done.is_done) == (1000, True)
    clock.now += 61
    with keys.request("a", b"other", now_ms=4000) as forgotten:
        assert forgotten.first_ms == 4000
    for key in ("b", "c"):  # a third key: the oldest goes
        with keys.request(key, b"x", now_ms=5000):
            pass
    with keys.request("a", b"third", now_ms=6000) as pushed_out:
        assert pushed_out.first_ms == 6000


def test_a_lane_that_is_full_refuses_and_does_not_hold_up_another() -> None:
    async def tried() -> None:
        slow, quick, go = Lane("slow", 2, 1), Lane("quick", 1, 0), threading.Event()
        waiting = [asyncio.create_task(slow.run(go.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 requests of the kind slow are under way"):
            await slow.run(go.wait)
        assert await quick.run(lambda: 7) == 7
        waiting[2].cancel()  # a client that leaves the queue gives its place back
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*waiting[:2]) == [True, True]
        assert await asyncio.gather(*(slow.run(lambda: 1) for _ in range(3))) == [1, 1, 1]
        slow.close()
        quick.close()

    asyncio.run(tried())


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_only_loopback_addresses_count_as_such(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert not is_loopback("no.such.host.invalid")


def test_a_service_that_others_can_reach_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIND_DIST_HTTP_TOKEN", raising=False)
    with pytest.raises(
        ConfigError, match=r"^serving\.host: 0\.0\.0\.0 can be reached .* MIND_DIST_HTTP_TOKEN is not set"
    ):
        main(Serve(ServingConfig(host="0.0.0.0")))
    monkeypatch.setenv("MIND_DIST_HTTP_TOKEN", "s3cret")
    addresses = Addresses.from_environment()
    check_guarded("0.0.0.0", addresses)
    assert "s3cret" not in f"{addresses} {asdict(addresses)}"
