"""What goes into the log: events by user, tombstones, dead letters; and what happens when the broker goes away."""

import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from mind_dist.config import KafkaConfig
from mind_dist.errors import ConfigError, ServiceUnavailable, StaleAssignment
from mind_dist.local_process import LocalProcess
from mind_dist.local_stack import tansu
from mind_dist.log.codec import decode, encode_event
from mind_dist.log.kafka import EventProducer, KafkaDeadLetters, KafkaSource, ensure_topics, num_partitions
from mind_dist.records import Event, Record, Tombstone
from tests.services import BROKERS

NUM_PARTITIONS = 3


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def config(broker: str) -> KafkaConfig:
    """Fresh topics."""
    return fresh_topics(broker, KafkaConfig(connect_timeout_s=20))


def fresh_topics(broker: str, config: KafkaConfig) -> KafkaConfig:
    name = uuid.uuid4().hex
    config = replace(config, topic=f"events-{name}", dead_letter_topic=f"dead-{name}")
    ensure_topics(broker, {config.topic: NUM_PARTITIONS, config.dead_letter_topic: 1})
    return config


def read(broker: str, config: KafkaConfig, count: int) -> list[Record]:
    records: list[Record] = []
    with closing(KafkaSource(broker, config, "reader", partitions=range(NUM_PARTITIONS))) as source:
        deadline_s = time.monotonic() + 20
        while len(records) < count and time.monotonic() < deadline_s:
            records += source.poll(0.2)
    assert len(records) == count
    return records


def dead_letters(broker: str, config: KafkaConfig, count: int) -> Sequence[Any]:
    consumer = KafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, consumer_timeout_ms=20_000)
    with closing(consumer):
        consumer.assign([TopicPartition(config.dead_letter_topic, 0)])
        consumer.seek_to_beginning()
        return [next(consumer) for _ in range(count)]


def test_a_users_records_are_in_one_partition_in_order_and_users_spread(broker: str, config: KafkaConfig) -> None:
    with closing(EventProducer(broker, config)) as producer:
        for time_ms in range(5):
            for user in range(20):
                producer.send(user, 100 + time_ms, time_ms)
        producer.forget(7)
        producer.flush()
    records = read(broker, config, 101)
    partitions: dict[int, set[int]] = {}
    times: dict[int, list[int]] = {}
    forgotten = []
    for record in records:
        match decode(record, "int64", max_clock_skew_ms=config.max_clock_skew_ms):
            case Event() as event:
                partitions.setdefault(event.user_key, set()).add(record.partition)
                times.setdefault(event.user_key, []).append(event.timestamp_ms)
            case Tombstone(user_key):
                forgotten.append((user_key, record.partition))
    assert all(len(found) == 1 for found in partitions.values())
    assert all(found == list(range(5)) for found in times.values())
    assert len(set.union(*partitions.values())) == NUM_PARTITIONS
    assert forgotten == [(7, *partitions[7])]


def test_headers_of_an_event_are_its_records(broker: str, config: KafkaConfig) -> None:
    with closing(EventProducer(broker, config)) as producer:
        producer.send(7, 100, 1, headers=[("idempotency-key", b"k-1")])
        producer.flush()
    consumer = KafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, consumer_timeout_ms=20_000)
    with closing(consumer):
        consumer.assign([TopicPartition(config.topic, partition) for partition in range(NUM_PARTITIONS)])
        consumer.seek_to_beginning()
        record = next(consumer)
    assert (record.key, dict(record.headers)) == (b"7", {"idempotency-key": b"k-1"})


def test_dead_letters_keep_key_and_value_and_say_why_and_from_where(broker: str, config: KafkaConfig) -> None:
    large = b"x" * 1_048_000
    with closing(KafkaDeadLetters(broker, config)) as letters:
        letters.send(Record(2, 41, b"7", b"{", 0), "value: not JSON")
        letters.send(Record(0, 3, None, None, 0), "key: missing")
        letters.send(Record(1, 9, b"7", large, 0), "value: not JSON")
        letters.flush()
        first, second, third = dead_letters(broker, config, 3)
    assert (first.key, first.value) == (b"7", b"{")
    assert dict(first.headers) == {
        "error": b"value: not JSON",
        "topic": config.topic.encode(),
        "partition": b"2",
        "offset": b"41",
    }
    assert not second.key
    assert not second.value
    assert third.value == large[: len(third.value)]
    assert dict(third.headers)["cut_from_bytes"] == b"1048000"


def test_topics_are_made_once_and_left_as_they_are(broker: str, config: KafkaConfig) -> None:
    ensure_topics(broker, {config.topic: NUM_PARTITIONS + 4})
    assert num_partitions(broker, config.topic) == NUM_PARTITIONS


def test_a_missing_topic_or_partition_is_named(broker: str, config: KafkaConfig) -> None:
    with pytest.raises(ConfigError, match="there is no topic 'nowhere'"):
        KafkaSource(broker, replace(config, topic="nowhere"), "g")
    with pytest.raises(ConfigError, match="numbered from 0"):
        KafkaSource(broker, config, "g", partitions=[NUM_PARTITIONS])


@contextmanager
def frozen(server: LocalProcess) -> Iterator[None]:
    """Stop a server's processes where they are, and let them go on afterwards."""
    for pid in server.processes():
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in server.processes():
            os.kill(pid, signal.SIGCONT)


def test_a_frozen_broker_is_named_after_the_bound_and_nothing_is_lost_when_it_is_back(tmp_path: Path) -> None:
    with tansu(tmp_path) as server:
        config = fresh_topics(server.address, KafkaConfig(connect_timeout_s=1))
        producer = EventProducer(server.address, config)
        source = KafkaSource(server.address, config, "g", partitions=[0, 1, 2])
        producer.send(1, 10, 1)
        producer.flush()
        while not source.poll(0.2):
            pass
        with frozen(server):
            with pytest.raises(ServiceUnavailable, match=f"Kafka at {server.address}"):
                poll_for(source, 30)
            with pytest.raises(ServiceUnavailable, match=f"Kafka at {server.address}"):
                source.committed()
            with pytest.raises(ServiceUnavailable, match="did not answer within 2 s"):
                source.lag(2.0)
            producer.send(1, 11, 2)
            with pytest.raises(ServiceUnavailable, match=f"Kafka at {server.address}"):
                producer.flush()
        deadline_s = time.monotonic() + 30
        while True:
            try:
                producer.send(1, 12, 3)
                producer.flush()
                break
            except ServiceUnavailable:
                assert time.monotonic() < deadline_s
        found: list[Record] = []
        while encode_event(1, 12, 3) not in [record.value for record in found]:
            assert time.monotonic() < deadline_s
            try:
                found += source.poll(0.2)
            except ServiceUnavailable:
                continue
        producer.close()
        source.close()


def poll_for(source: KafkaSource, bound_s: float) -> None:
    deadline_s = time.monotonic() + bound_s
    while time.monotonic() < deadline_s:
        source.poll(0.2)


def test_nobody_stores_positions_past_a_groups_members(broker: str, config: KafkaConfig) -> None:
    with closing(KafkaSource(broker, config, "g")) as member:
        while not member.assignment():
            member.poll(0.1)
        with closing(KafkaSource(broker, config, "g", partitions=[0])) as stranger:
            with pytest.raises(StaleAssignment, match="have moved on"):
                stranger.commit({0: 0})
            member.commit({0: 0})


if "kafka_broker" in BROKERS:  # Tansu goes on waiting for a member that does not poll

    @pytest.mark.parametrize("broker", ["kafka_broker"], indirect=True)
    def test_a_member_that_was_too_slow_may_not_store_positions(broker: str, config: KafkaConfig) -> None:
        slow = replace(config, session_timeout_s=6, max_poll_interval_s=6)
        with closing(KafkaSource(broker, slow, "g")) as first, closing(KafkaSource(broker, slow, "g")) as second:
            while not first.assignment():
                first.poll(0.1)
            deadline_s = time.monotonic() + 60
            while len(second.assignment()) < NUM_PARTITIONS:
                assert time.monotonic() < deadline_s
                second.poll(0.1)
            with pytest.raises(StaleAssignment, match="have moved on"):
                first.commit({0: 0})

    @pytest.mark.parametrize("broker", ["kafka_broker"], indirect=True)  # Tansu has no CreatePartitions
    def test_a_producer_writes_into_partitions_that_are_added(broker: str, config: KafkaConfig) -> None:
        with closing(EventProducer(broker, replace(config, metadata_max_age_s=1))) as producer:
            producer.send(1, 10, 0)
            producer.flush()
            with closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
                admin.create_partitions({config.topic: NUM_PARTITIONS + 3})
            wide = replace(config, metadata_max_age_s=1)
            with closing(
                KafkaSource(broker, wide, "g", partitions=range(NUM_PARTITIONS, NUM_PARTITIONS + 3))
            ) as source:
                deadline_s = time.monotonic() + 30
                time_ms = 0
                while any(end == 0 for end in source.end_positions().values()):
                    assert time.monotonic() < deadline_s
                    time_ms += 1
                    for user in range(30):
                        producer.send(user, 10, time_ms)
                    producer.flush()
