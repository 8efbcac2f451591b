"""The whole service on Ray Serve, with a broker and a Milvus: the tests tell one story and run in order."""

import asyncio
import dataclasses
import json
import logging
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from fastapi import FastAPI
from ray import serve
from ray.util.state import list_actors

from jobs.serve import deploy
from mind_dist import local_stack
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig, StatesConfig, dump
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import UpdaterStopped
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.local_process import LocalProcess, free_ports
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_event_topics
from mind_dist.publishing import publish
from mind_dist.serving.health import NO_ACTIVE_VERSION, UPDATE_FAILING, UPDATERS_MISSING
from mind_dist.serving.ray_app import UPDATER, RecommenderReplica, UpdaterReplica, application_name
from mind_dist.views.caught_up import CaughtUp
from tests.replicas import eventually
from tests.versions import tiny_version

logger = logging.getLogger(__name__)

USER = 7
DEPLOYMENT = "shop"
APPLICATION = application_name(DEPLOYMENT)


class Service:
    """A deployed service and everything around it."""

    def __init__(self, directory: Path, broker: LocalProcess, milvus: str) -> None:
        self.directory = directory
        self.broker = broker
        topic = f"served-{uuid.uuid4().hex[:8]}"
        kafka = KafkaConfig(topic, f"{topic}-dead", f"{topic}-states", connect_timeout_s=3, session_timeout_s=6)
        [port] = free_ports(1)
        self.config = ServingConfig(
            kafka=kafka,
            milvus=MilvusConfig(index="FLAT"),
            states=StatesConfig(directory=str(directory / "states")),
            port=port,
            cpus_per_replica=0.1,
            version_poll_s=0.2,
            unhealthy_after_s=5,
            category_column="genre",
        )
        self.addresses = Addresses(broker.address, milvus, deployment=DEPLOYMENT)
        ensure_event_topics(broker.address, kafka, 2)
        self.store = MilvusVectorStore.at(self.addresses, self.config.milvus)
        self.versions: list[str] = []
        with closing(EventProducer(broker.address, kafka)) as producer:
            producer.tell(USER, [[1, 10], [2, 20], [3, 30]])
        url = deploy(self.config, self.addresses, timeout_s=120)
        self.client = httpx.Client(base_url=url, timeout=30)

    def publish(self, seed: int) -> str:
        uri = tiny_version(self.directory / str(seed), seed=seed)
        encoder = InterestEncoder.load(uri)
        publish(
            self.store,
            encoder,
            uri,
            catch_up=CaughtUp(self.addresses.kafka, self.config.kafka.of_deployment(DEPLOYMENT)),
        )
        self.versions.append(encoder.model_version)
        return encoder.model_version

    def interests(self, user: int) -> dict[str, Any]:
        response = self.client.get(f"/v1/users/{user}/interests")
        return response.json() if response.status_code == 200 else {}

    def status(self) -> dict[str, Any]:
        handle = serve.get_deployment_handle(UPDATER, APPLICATION)
        found: dict[str, Any] = handle.status.remote().result(timeout_s=30)
        return found

    def followed(self) -> set[str]:
        return {view["model_version"] for view in self.status()["views"]}

    def is_ready(self, version: str) -> bool:
        response = self.client.get("/readyz")
        return response.status_code == 200 and response.json()["model_version"] == version


@pytest.fixture(scope="module")
def service(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("serving")
    with ExitStack() as stack:
        broker = stack.enter_context(local_stack.tansu(directory))
        milvus = stack.enter_context(local_stack.milvus_lite(directory))  # empty: no other test's version is active
        ray.init(address=ray_cluster, log_to_driver=False)
        stack.callback(ray.shutdown)
        stack.callback(serve.shutdown)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("MIND_DIST_KAFKA_CLIENT_ID", "shop")
        service = Service(directory, broker, milvus.address)
        stack.callback(service.store.close)
        stack.callback(service.client.close)
        yield service


def updater_pid() -> int | None:
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    pids = [actor.pid for actor in actors if actor.name and f"#{UPDATER}#" in actor.name]
    return pids[0] if pids else None


@pytest.mark.usefixtures("service")
def test_settings_of_the_kafka_client_reach_the_replicas() -> None:
    alive = [actor for actor in list_actors(detail=True, limit=1000) if actor.state == "ALIVE"]
    actors = [actor for actor in alive if f"#{UPDATER}#" in (actor.name or "")]
    environments = [json.loads(actor.serialized_runtime_env or "{}") for actor in actors]
    assert [each["env_vars"].get("MIND_DIST_KAFKA_CLIENT_ID") for each in environments] == ["shop"]


def test_without_a_version_it_is_up_but_not_ready(service: Service) -> None:
    response = service.client.get("/readyz")
    assert response.status_code == 503
    assert "version" in response.json()["error"]
    sources = {each["source"] for each in response.json()["warnings"] if each["name"] == NO_ACTIVE_VERSION}
    assert "recommender" in sources
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get("/", follow_redirects=True).url.path == "/docs"
    assert service.client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_published_version_is_picked_up_and_answers(service: Service) -> None:
    version = service.publish(seed=201)
    eventually(lambda: service.is_ready(version))
    eventually(lambda: service.interests(USER))
    answer = service.client.post("/v1/retrieve", json={"user_id": USER, "limit": 5}).json()
    assert answer["model_version"] == version
    assert len(answer["candidates"]) == 5
    assert service.client.post("/v1/retrieve", json={"user_id": 999}).status_code == 404
    assert "must be an integer" in service.client.get("/v1/users/a%2Fb/interests").json()["error"]
    eventually(lambda: service.client.get("/readyz").json()["warnings"] == [])
    wrong = service.client.post("/v1/retrieve", json={"user_id": USER, "filter": {"colour": "red"}})
    assert (wrong.status_code, "unknown column" in wrong.json()["error"]) == (422, True)


def applied(service: Service, deployment: str) -> int:
    """Return how many records a deployment's updaters have applied."""
    kafka = service.config.kafka.of_deployment(deployment)
    source = KafkaSource(service.broker.address, kafka, kafka.updaters_group, partitions=range(2))
    with closing(source):
        return sum(source.committed().values())


def test_events_change_a_users_vectors_within_seconds(service: Service) -> None:
    eventually(lambda: service.status()["states"].get("partitions") == [0, 1])
    waits = []
    for item in range(20, 30):
        before = service.interests(USER)
        event = {"user_id": USER, "item_id": item}
        assert service.client.post("/v1/events", json={"events": [event]}).status_code == 202
        waits.append(eventually(lambda item=item: item in service.interests(USER)["behaviors"]))  # type: ignore[misc]
        assert service.interests(USER)["interests"] != before["interests"]
    status = service.status()
    [view] = status["views"]
    logger.info("seen over HTTP after %.0f ms; freshness_ms %s", np.median(waits) * 1000, view["freshness_ms"])
    assert (status["states"]["num_applied"], status["states"]["stopped"]) == (11, {})  # what was told of the user, too
    assert (applied(service, DEPLOYMENT), applied(service, "")) == (11, 0)
    assert (view["model_version"], view["num_behind"], view["num_repairs"]) == (service.versions[-1], 0, 0)
    assert view["freshness_ms"]["p50"] < 2000


def test_metrics_reach_prometheus(service: Service) -> None:
    [node] = ray.nodes()  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    labels = f'model_version="{service.versions[-1]}"'

    def exported() -> bool:
        lines = httpx.get(url, timeout=10).text.splitlines()
        applied = [line for line in lines if line.startswith("ray_mind_dist_events_applied_total{")]
        written = [line for line in lines if line.startswith("ray_mind_dist_user_upserts_total{") and labels in line]
        fresh = [line for line in lines if line.startswith("ray_mind_dist_freshness_seconds_bucket{")]
        lag = [line for line in lines if line.startswith("ray_mind_dist_lag_records{") and 'partition="1"' in line]
        retrieved = [line for line in lines if line.startswith("ray_mind_dist_retrieve_seconds_count{")]
        return all((applied, written, fresh, lag, retrieved))

    eventually(exported)


def test_killing_the_updater_in_mid_stream_loses_nothing(service: Service) -> None:
    draw = random.Random(3)
    sent: dict[int, list[int]] = {}
    killed = updater_pid()
    assert killed is not None
    with closing(EventProducer(service.addresses.kafka, service.config.kafka)) as producer:
        for number in range(600):
            user, item = draw.randrange(100, 120), draw.randrange(60)
            producer.send(user, item, 1000 + number)
            sent.setdefault(user, []).append(item)
            if number == 300:
                producer.flush()
                eventually(lambda: service.interests(100))
                os.kill(killed, signal.SIGKILL)
    expected = {user: items[-8:] for user, items in sent.items()}
    took_s = eventually(lambda: {user: service.interests(user).get("behaviors") for user in sent} == expected)
    logger.info("all applied %.1f s after the last event", took_s)
    assert updater_pid() not in {None, killed}


def test_a_new_version_is_taken_over_without_a_restart(service: Service) -> None:
    pid = updater_pid()
    version = service.publish(seed=202)
    eventually(lambda: service.is_ready(version))
    eventually(lambda: service.followed() == {version})
    event = {"user_id": USER, "item_id": 40}
    assert service.client.post("/v1/events", json={"events": [event]}).status_code == 202
    eventually(lambda: 40 in service.interests(USER)["behaviors"])
    view = service.interests(USER)
    assert view["model_version"] == version
    assert {1, 2, 3} & set(view["behaviors"]) or len(view["behaviors"]) == 8
    assert updater_pid() == pid


def test_replicas_need_no_serve_around_them(service: Service, tansu_broker: str, tmp_path: Path) -> None:
    newcomer = USER + 1  # another broker, so other states: its own machine's folder, too
    ensure_event_topics(tansu_broker, service.config.kafka, 2)
    addresses = dataclasses.replace(service.addresses, kafka=tansu_broker)
    config = dataclasses.replace(service.config, states=StatesConfig(directory=str(tmp_path)))
    arguments = (dump(config), addresses.shareable())
    updater = UpdaterReplica(*arguments)
    recommender = RecommenderReplica(*arguments, None)
    api = recommender.__serve_build_asgi_app__()
    event = {"user_id": newcomer, "item_id": 50}
    assert eventually_asked(api, "/readyz").json()["model_version"] == service.versions[-1]
    assert asked(api, "POST", "/v1/events", json={"events": [event]}).status_code == 202
    eventually(lambda: 50 in service.interests(newcomer).get("behaviors", []))
    status = updater.status()
    assert [each["problem"] for each in (status["states"], *status["views"])] == ["", ""]
    updater.check_health()
    recommender.check_health()
    updater.__del__()
    recommender.__del__()
    with pytest.raises(UpdaterStopped):
        updater.check_health()


def test_a_replica_that_ends_while_it_begins_leaves_nothing_at_work(
    service: Service, tansu_broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, load = threading.Event(), InterestEncoder.load

    def slowly(uri: str) -> InterestEncoder:
        loading.set()
        time.sleep(0.5)
        return load(uri)

    monkeypatch.setattr(InterestEncoder, "load", slowly)
    addresses = dataclasses.replace(service.addresses, kafka=tansu_broker)
    config = dataclasses.replace(service.config, states=StatesConfig(directory=str(tmp_path)))
    updater = UpdaterReplica(dump(config), addresses.shareable())
    assert loading.wait(30)
    updater.__del__()
    assert "the states' updater" not in {thread.name for thread in threading.enumerate()}


def asked(api: FastAPI, method: str, path: str, **content: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client:
            return await client.request(method, path, **content)

    return asyncio.run(ask())


def eventually_asked(api: FastAPI, path: str) -> httpx.Response:
    eventually(lambda: asked(api, "GET", path).status_code == 200)
    return asked(api, "GET", path)


def test_health_turns_bad_when_the_broker_is_gone(service: Service) -> None:
    assert serve.status().applications[APPLICATION].deployments[UPDATER].status == "HEALTHY"
    service.broker.stop()
    took_s = eventually(
        lambda: serve.status().applications[APPLICATION].deployments[UPDATER].status == "UNHEALTHY", timeout_s=90
    )
    logger.info("unhealthy %.1f s after the broker went", took_s)
    response = service.client.post("/v1/events", json={"events": [{"user_id": USER, "item_id": 1}]})
    assert (response.status_code, "Kafka" in response.json()["error"]) == (503, True)
    assert service.client.post("/v1/retrieve", json={"user_id": USER}).status_code == 200


def test_readiness_tells_that_requests_are_answered_and_updates_fail(service: Service) -> None:
    ready = service.client.get("/readyz")
    assert (ready.status_code, ready.json()["model_version"]) == (200, service.versions[-1])
    found = {warning["name"] for warning in ready.json()["warnings"]}
    assert found & {
        UPDATE_FAILING,
        UPDATERS_MISSING,
    }  # its replica is replaced again and again, and answers now and then
