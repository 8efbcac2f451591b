"""An updater without partitions learns from the broker whether that is as it should be."""

import uuid
from contextlib import closing

import pytest

from mind_dist.config import KafkaConfig, ServingConfig
from mind_dist.local_process import free_ports
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.serving.group_progress import GroupProgress
from tests.services import BROKERS


@pytest.fixture
def kafka() -> KafkaConfig:
    name = f"events-{uuid.uuid4().hex}"
    return KafkaConfig(name, group_prefix=f"{name}-", connect_timeout_s=3)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, kafka: KafkaConfig) -> str:
    address: str = request.getfixturevalue(request.param)
    ensure_topics(address, {kafka.topic: 2})
    return address


def test_with_no_more_updaters_than_partitions_the_group_is_stuck(broker: str, kafka: KafkaConfig) -> None:
    said = GroupProgress(broker, ServingConfig(kafka, num_updaters=2)).why_unowned()
    assert f"group {kafka.updaters_group} is stuck: 2 partitions for 2 updaters, and this one has none" in said
    assert f"kafka-consumer-groups.sh --bootstrap-server {broker} --describe" in said


def test_with_more_updaters_it_is_stuck_when_it_takes_nothing_of_what_was_there(
    broker: str, kafka: KafkaConfig
) -> None:
    progress = GroupProgress(broker, ServingConfig(kafka, num_updaters=3))
    assert progress.why_unowned() == ""
    send(broker, kafka, 10)
    assert progress.why_unowned() == ""  # it had nothing to take until now
    assert "nobody applies its 10 oldest records" in progress.why_unowned()
    send(broker, kafka, 5)
    take(broker, kafka)
    assert progress.why_unowned() == ""


def test_a_group_that_gets_on_is_fine_though_its_lag_grows(broker: str, kafka: KafkaConfig) -> None:
    progress = GroupProgress(broker, ServingConfig(kafka, num_updaters=3))
    for _ in range(3):
        send(broker, kafka, 10)
        assert progress.why_unowned() == ""
        take(broker, kafka)
        send(broker, kafka, 50)


def test_a_broker_that_is_away_is_said_to_be(kafka: KafkaConfig) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    said = GroupProgress(address, ServingConfig(kafka)).why_unowned()
    assert f"it cannot be told why: Kafka at {address}" in said


def send(broker: str, kafka: KafkaConfig, count: int) -> None:
    with closing(EventProducer(broker, kafka)) as producer:
        for number in range(count):
            producer.send(number, number, number)


def take(broker: str, kafka: KafkaConfig) -> None:
    """Commit all that is there."""
    with closing(KafkaSource(broker, kafka, kafka.updaters_group, partitions=range(2))) as source:
        source.commit(source.end_positions())
