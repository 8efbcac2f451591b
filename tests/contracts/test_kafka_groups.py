"""Handing positions from group to group, over every broker."""

import uuid

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.kafka_groups import end_positions, hand_over, lag
from tests.services import BROKERS

PARTITIONS = 3


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def make_topic(broker: str, num_events: int) -> KafkaConfig:
    config = KafkaConfig(topic=f"events-{uuid.uuid4().hex}", connect_timeout_s=20)
    ensure_topics(broker, {config.topic: PARTITIONS})
    send(broker, config, num_events)
    return config


def send(broker: str, config: KafkaConfig, num_events: int) -> None:
    producer = EventProducer(broker, config)
    for number in range(num_events):
        producer.send(number, 1, number)
    producer.close()


def consume(broker: str, config: KafkaConfig, group: str, count: int) -> list[tuple[int, int]]:
    """Take records as the group's only member, and commit."""
    source = KafkaSource(broker, config, group, partitions=range(PARTITIONS))
    found: list[tuple[int, int]] = []
    while len(found) < count:
        found += [(record.partition, record.offset) for record in source.poll(1)]
    source.commit(source.position())
    source.close()
    return found


def test_a_group_goes_on_where_another_had_come_to(broker: str) -> None:
    config = make_topic(broker, 60)
    old, new = config.group("v1"), config.group("v2")
    consume(broker, config, old, 60)
    ends = end_positions(broker, config)
    assert sum(ends.values()) == 60
    assert hand_over(broker, config, old, new) == ends
    assert lag(broker, config, new, ends) == 0
    send(broker, config, 30)
    later = end_positions(broker, config)
    assert sum(later.values()) == 90
    assert lag(broker, config, new, later) == lag(broker, config, old, later) == 30
    assert all(offset >= ends[partition] for partition, offset in consume(broker, config, new, 30))
    assert lag(broker, config, new, later) == 0
    assert lag(broker, config, old, later) == 30


def test_a_group_that_never_stored_anything_hands_over_nothing(broker: str) -> None:
    config = make_topic(broker, 20)
    assert hand_over(broker, config, config.group("v1"), config.group("v2")) == {}
    assert lag(broker, config, config.group("v2"), end_positions(broker, config)) == 20
