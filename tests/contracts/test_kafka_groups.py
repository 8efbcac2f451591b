"""Where groups stand and who is in them, over every broker."""

import uuid
from collections.abc import Mapping
from contextlib import closing

import pytest
from kafka import KafkaProducer

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.kafka_groups import end_positions, has_members, lag
from mind_dist.records import Record
from tests.services import BROKERS

PARTITIONS = 3


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def new_config() -> KafkaConfig:
    name = f"events-{uuid.uuid4().hex}"
    return KafkaConfig(topic=name, group_prefix=f"{name}-", connect_timeout_s=20)


def make_topic(broker: str, num_events: int) -> KafkaConfig:
    config = new_config()
    ensure_topics(broker, {config.topic: PARTITIONS})
    send(broker, config, num_events)
    return config


def send(broker: str, config: KafkaConfig, num_events: int) -> None:
    producer = EventProducer(broker, config)
    for number in range(num_events):
        producer.send(number, 1, number)
    producer.close()


def take(broker: str, config: KafkaConfig, group: str, positions: Mapping[int, int]) -> None:
    """Store positions for a group without joining it."""
    with closing(KafkaSource(broker, config, group, partitions=range(PARTITIONS))) as source:
        source.commit(positions)


def test_lag_is_how_far_a_group_is_behind_some_positions(broker: str) -> None:
    config = make_topic(broker, 60)
    ends = end_positions(broker, config)
    assert sum(ends.values()) == 60
    assert lag(broker, config, config.updaters_group, ends) == 60
    take(broker, config, config.updaters_group, ends)
    assert lag(broker, config, config.updaters_group, ends) == 0
    send(broker, config, 30)
    assert lag(broker, config, config.updaters_group, end_positions(broker, config)) == 30


def test_who_is_in_a_group_is_known(broker: str) -> None:
    config = make_topic(broker, 1)
    group = config.updaters_group
    assert not has_members(broker, config, group)
    with closing(KafkaSource(broker, config, group)) as member:
        while not member.assignment():
            member.poll(0.2)
        assert has_members(broker, config, group)
    assert not has_members(broker, config, group)


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
    group = config.updaters_group
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
    group = config.updaters_group
    take(broker, config, group, end_positions(broker, config))
    write_transaction(broker, config, commit=False)
    assert lag(broker, config, group, end_positions(broker, config)) == 0
    send(broker, config, 30)
    assert 30 <= lag(broker, config, group, end_positions(broker, config)) <= 36
