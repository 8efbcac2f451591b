"""Updaters are added while events wait, and taken away when none do; no event is lost or counted twice meanwhile."""

import dataclasses
import itertools
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.serve._private.common import ReplicaState

from jobs.serve import deploy
from mind_dist import local_stack
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ScalingConfig, ServingConfig, StatesConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.local_process import free_ports
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.log.kafka_groups import end_positions, lag
from mind_dist.publishing import publish
from mind_dist.serving.ray_app import APPLICATION, UPDATER
from tests import kafka_logs
from tests.replicas import eventually
from tests.state_worlds import assert_states, mixed_log, told_by
from tests.versions import tiny_version

PARTITIONS = 4
WAITING = 500
"""As many events wait while updaters are to be added; far more than a hundred for each of three."""
MOST_S = 180
"""Some of what is waited for starts processes, on whatever machine this is."""


@pytest.fixture
def addresses(ray_cluster: str, tmp_path: Path) -> Iterator[Addresses]:
    with ExitStack() as stack:
        broker = stack.enter_context(local_stack.tansu(tmp_path))
        milvus = stack.enter_context(local_stack.milvus_lite(tmp_path))
        ray.init(address=ray_cluster, log_to_driver=False)
        stack.callback(ray.shutdown)
        stack.callback(serve.shutdown)
        yield Addresses(broker.address, milvus.address)


def num_updaters() -> int:
    return serve.status().applications[APPLICATION].deployments[UPDATER].replica_states.get(ReplicaState.RUNNING, 0)


def test_updaters_follow_what_waits(addresses: Addresses, tmp_path: Path) -> None:
    topic = f"scaled-{uuid.uuid4().hex[:8]}"
    kafka = KafkaConfig(
        topic,
        f"{topic}-dead",
        f"{topic}-states",
        max_poison_fraction=1.0,
        max_poll_records=10,  # slow, so that much waits
        session_timeout_s=6,
    )
    [port] = free_ports(1)
    config = ServingConfig(
        kafka=kafka,
        milvus=MilvusConfig(index="FLAT"),
        states=StatesConfig(directory=str(tmp_path / "states")),
        port=port,
        cpus_per_replica=0.1,
        scaling=ScalingConfig(max_updaters=3, lag_per_updater=100, up_after_s=1, down_after_s=1),
    )
    ensure_event_topics(addresses.kafka, kafka, PARTITIONS)
    uri = tiny_version(tmp_path / "version", seed=1)
    with closing(MilvusVectorStore.at(addresses, config.milvus)) as store:
        publish(store, InterestEncoder.load(uri), uri)
    deploy(config, addresses, timeout_s=120)
    assert num_updaters() == 1
    seeds = itertools.count()

    def are_three_while_much_waits() -> bool:
        """Send on until the added ones have started: how long that takes, and how fast one updater is, depends on the machine."""
        if lag(addresses.kafka, kafka, kafka.updaters_group, end_positions(addresses.kafka, kafka)) < WAITING:
            kafka_logs.send(addresses.kafka, topic, mixed_log(WAITING, 50, next(seeds)), PARTITIONS)
        return num_updaters() == 3

    eventually(are_three_while_much_waits, MOST_S)
    ends = end_positions(addresses.kafka, kafka)
    eventually(lambda: lag(addresses.kafka, kafka, kafka.updaters_group, ends) == 0, MOST_S)
    eventually(lambda: num_updaters() == 1, MOST_S)
    of_states = dataclasses.replace(kafka, topic=kafka.states_topic)
    wanted = told_by(kafka_logs.read_all(addresses.kafka, kafka, PARTITIONS), config.states.max_history)
    assert_states(kafka_logs.read_all(addresses.kafka, of_states, PARTITIONS), wanted)
