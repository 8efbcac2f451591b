"""A service whose broker is away, frozen or back: what it says of the log, and that nothing else waits for it."""

import asyncio
import os
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
import uvicorn

from mind_dist import local_stack
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig, dump
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.local_process import LocalProcess, free_ports
from mind_dist.log.kafka import ensure_topics
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence
from mind_dist.serving.ray_app import RecommenderReplica
from tests.services import KAFKA_HOME
from tests.toy_views import fill_users
from tests.versions import tiny_version

USER = 7
EVENT = {"events": [{"user_id": USER, "item_id": 4}]}
NUM_EVENTS = 60
"""Requests that wait for the log at once: more than a process has threads for requests."""


class Service:
    """The replica that answers HTTP, on a socket of its own, and the broker beside it."""

    def __init__(self, broker: LocalProcess, milvus: str, directory: Path) -> None:
        self.broker = broker
        topic = f"neighbors-{uuid.uuid4().hex[:8]}"
        kafka = KafkaConfig(topic, dead_letter_topic=f"{topic}-dead", connect_timeout_s=20)
        self.config = ServingConfig(kafka=kafka, milvus=MilvusConfig(index="FLAT"), version_poll_s=0.2)
        self.addresses = Addresses(broker.address, milvus, deployment=f"n{uuid.uuid4().hex[:8]}")
        ensure_topics(broker.address, {kafka.topic: 2, kafka.dead_letter_topic: 1})
        store = MilvusVectorStore.at(self.addresses, self.config.milvus)
        uri = tiny_version(directory)
        encoder = InterestEncoder.load(uri)
        publish(store, encoder, uri)
        user = BehaviorSequence(USER, np.array([1, 2, 3]), np.array([10, 20, 30]))
        fill_users(store, encoder, encoder.model_version, [user])
        store.close()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Yield the URL of a new replica."""
        replica = RecommenderReplica(dump(self.config), self.addresses.shareable(), None)
        [port] = free_ports(1)
        server = uvicorn.Server(uvicorn.Config(replica.__serve_build_asgi_app__(), port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: _status(f"{url}/readyz") == 200)
            yield url
        finally:
            server.force_exit = server.should_exit = True
            thread.join()
            replica.__del__()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the broker's processes for as long as this lasts; its connections stay open, and silent."""
        pids = self.broker.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.05)


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.HTTPError:
        return 0


@pytest.fixture(scope="module")
def service(ray_cluster: str, milvus_lite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("neighbors")
    with ExitStack() as stack:
        has_kafka = KAFKA_HOME.is_dir()
        broker = local_stack.apache_kafka(directory, KAFKA_HOME) if has_kafka else local_stack.tansu(directory)
        stack.enter_context(broker)
        ray.init(address=ray_cluster, log_to_driver=False)  # the replica's metrics go there
        stack.callback(ray.shutdown)
        yield Service(broker, milvus_lite, directory)


async def neighbors_of_waiting_events(url: str) -> tuple[list[int], int, list[httpx.Response]]:
    """Send many events, and while they wait ask for all else; return its answers, how many still waited, and theirs."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        events = [asyncio.create_task(client.post("/v1/events", json=EVENT)) for _ in range(NUM_EVENTS)]
        await asyncio.sleep(0.5)  # they are on their way
        others: list[Awaitable[httpx.Response]] = [client.get("/healthz"), client.get("/readyz")]
        others += [client.post("/v1/retrieve", json={"user_id": USER, "limit": 5}) for _ in range(10)]
        answers = [answer.status_code for answer in await asyncio.gather(*others)]
        waiting = sum(not event.done() for event in events)
        return answers, waiting, await asyncio.gather(*events)


def test_a_frozen_broker_slows_nothing_but_events(service: Service) -> None:
    with service.serving() as url:
        eventually(lambda: httpx.post(f"{url}/v1/events", json=EVENT, timeout=30).status_code == 202)
        with service.frozen():
            answers, waiting, events = asyncio.run(neighbors_of_waiting_events(url))
        assert answers == [200] * 12
        assert waiting, "everything else was answered before the events were given up"
        assert {event.status_code for event in events} == {503}
        assert all(int(event.headers["retry-after"]) >= 1 for event in events)
        eventually(lambda: httpx.post(f"{url}/v1/events", json=EVENT, timeout=30).status_code == 202)


def test_a_replica_that_starts_while_the_broker_is_frozen_answers_all_but_events(service: Service) -> None:
    with ExitStack() as frozen:
        frozen.enter_context(service.frozen())
        with service.serving() as url:
            refused = httpx.post(f"{url}/v1/events", json=EVENT, timeout=30)
            assert (refused.status_code, "Kafka" in refused.json()["error"]) == (503, True)
            assert int(refused.headers["retry-after"]) >= 1
            assert httpx.post(f"{url}/v1/retrieve", json={"user_id": USER}, timeout=30).status_code == 200
            frozen.close()
            eventually(lambda: httpx.post(f"{url}/v1/events", json=EVENT, timeout=30).status_code == 202)
