"""Handing positions from group to group, over every broker."""

import uuid
from contextlib import closing

import pytest
from kafka import KafkaProducer

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.kafka_groups import end_positions, hand_over, lag
from mind_dist.records import Record
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


def write_transaction(broker: str, config: KafkaConfig, *, commit: bool) -> None:
    """Write a record into each partition, and the marker behind it."""
    name = uuid.uuid4().hex
    with closing(KafkaProducer(bootstrap_servers=broker, transactional_id=name, retry_backoff_ms=5)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.send(config.topic, key=b"1", value=b"{}", partition=partition)
        (producer.commit_transaction if commit else producer.abort_transaction)()


def test_a_group_that_has_come_to_a_transactions_marker_has_caught_up(broker: str) -> None:
    config = make_topic(broker, 0)
    group = config.group("v1")
    write_transaction(broker, config, commit=True)
    ends = end_positions(broker, config)
    assert lag(broker, config, group, ends) > 0
    with closing(KafkaSource(broker, config, group, partitions=range(PARTITIONS))) as source:
        records: list[Record] = []
        while len(records) < PARTITIONS:
            records += source.poll(1)
        source.commit({record.partition: record.offset + 1 for record in records})
    assert lag(broker, config, group, ends) == 0


@pytest.mark.parametrize("broker", [name for name in BROKERS if name != "tansu_broker"], indirect=True)
def test_a_group_has_caught_up_behind_which_lies_nothing_but_a_transaction_that_was_given_up(broker: str) -> None:
    config = make_topic(broker, 30)
    group = config.group("v1")
    consume(broker, config, group, 30)
    write_transaction(broker, config, commit=False)
    assert lag(broker, config, group, end_positions(broker, config)) == 0
    send(broker, config, 30)
    assert 30 <= lag(broker, config, group, end_positions(broker, config)) <= 36
