"""A deployment's topics on every broker: made where they may be, and named with the command that makes them otherwise."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from mind_dist import local_stack
from mind_dist.config import KafkaConfig
from mind_dist.errors import AnotherLog, ConfigError, MindDistError, ServiceUnavailable
from mind_dist.log.kafka import (
    EVENT_PARTITIONS,
    EventProducer,
    KafkaDeadLetters,
    KafkaSource,
    ensure_dead_letter_topic,
    ensure_event_topics,
    log_identity,
    num_partitions,
)
from mind_dist.log.kafka_broker import admin_client
from mind_dist.log.kafka_topics import DEAD_LETTER_CONFIGS, EVENT_CONFIGS, STATE_CONFIGS
from mind_dist.records import Record
from tests.services import BROKERS, KAFKA_HOME

POISON = Record(0, 7, b"1", b"{not json", 0)


@pytest.fixture
def config() -> KafkaConfig:
    topic = f"events-{uuid.uuid4().hex}"
    return KafkaConfig(topic, f"{topic}-dead", f"{topic}-states", connect_timeout_s=3)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


def configs(bootstrap: str, topic: str) -> dict[str, str]:
    """Return a topic's settings."""
    with admin_client(bootstrap, 10) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {name: value["value"] for name, value in described["topic"][topic].items()}


def write_dead_letter(bootstrap: str, config: KafkaConfig) -> None:
    with closing(KafkaDeadLetters(bootstrap, config)) as dead_letters:
        dead_letters.send(POISON, "broken")
        dead_letters.flush()


def test_topics_are_made_with_partitions_once_and_stay_as_they_are(broker: str, config: KafkaConfig) -> None:
    ensure_event_topics(broker, config)
    ensure_event_topics(broker, config, 3)
    assert num_partitions(broker, config.topic) == EVENT_PARTITIONS
    assert num_partitions(broker, config.states_topic) == EVENT_PARTITIONS
    assert num_partitions(broker, config.dead_letter_topic) == 1


def test_records_are_stamped_as_the_log_takes_them(broker: str, config: KafkaConfig) -> None:
    ensure_event_topics(broker, config, 1)
    with closing(EventProducer(broker, config)) as producer:
        producer.send(1, 2, 3)
    with closing(KafkaSource(broker, config, "g", partitions=[0])) as source:
        while not (records := source.poll(1)):
            pass
    assert records[0].appended_ms > 1_700_000_000_000


@pytest.fixture(scope="module")
def strict_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an Apache Kafka that makes no topic by itself, and refuses those without a number of copies."""
    directory = tmp_path_factory.mktemp("strict")
    broker = local_stack.apache_kafka(directory, KAFKA_HOME)
    with (directory / "kafka.properties").open("a") as properties:
        properties.write("auto.create.topics.enable=false\ndefault.replication.factor=3\n")
    with broker:
        yield broker.address


if KAFKA_HOME.is_dir():  # Tansu shows no topic's settings, and refuses to make none

    def test_topics_are_made_as_the_topics_file_says(kafka_broker: str, config: KafkaConfig) -> None:
        ensure_event_topics(kafka_broker, config)
        topics = (config.topic, config.states_topic, config.dead_letter_topic)
        for topic, wanted in zip(topics, (EVENT_CONFIGS, STATE_CONFIGS, DEAD_LETTER_CONFIGS), strict=True):
            assert wanted.items() <= configs(kafka_broker, topic).items()

    def test_a_dead_letters_topic_that_may_not_be_made_is_named_with_its_command(
        strict_kafka: str, config: KafkaConfig
    ) -> None:
        with pytest.raises(ServiceUnavailable):
            write_dead_letter(strict_kafka, config)
        command = f"kafka-topics.sh --bootstrap-server {strict_kafka} --create --topic {config.dead_letter_topic} "
        with pytest.raises(ConfigError, match=f"the broker refuses to make it .*: create it with {command}") as refused:
            ensure_dead_letter_topic(strict_kafka, config)
        assert refused.value.path == "kafka.dead_letter_topic"

    def test_a_topic_that_is_there_needs_no_right_to_make_it(strict_kafka: str, config: KafkaConfig) -> None:
        with admin_client(strict_kafka, 10) as admin:
            admin.create_topics({config.dead_letter_topic: {"num_partitions": 1, "replication_factor": 1}})
        ensure_dead_letter_topic(strict_kafka, config)
        write_dead_letter(strict_kafka, config)


def test_the_dead_letters_topic_is_made_where_it_is_missing(broker: str, config: KafkaConfig) -> None:
    ensure_dead_letter_topic(broker, config)
    write_dead_letter(broker, config)


def test_a_missing_events_topic_is_named_with_its_command(broker: str, config: KafkaConfig) -> None:
    command = f"kafka-topics.sh --bootstrap-server {broker} --create --topic {config.topic} --partitions 16 "
    with pytest.raises(
        ConfigError,
        match=f"create it with {command}.*or let python -m jobs.replay --kafka.topic {config.topic} make it",
    ):
        num_partitions(broker, config.topic)


def test_a_topic_keeps_its_identity_until_it_is_made_anew(broker: str, config: KafkaConfig) -> None:
    ensure_event_topics(broker, config, 2)
    first = log_identity(broker, config.topic)
    assert log_identity(broker, config.topic) == first
    assert first.topic == config.topic
    assert first.cluster_id
    with admin_client(broker, 10) as admin:
        admin.delete_topics([config.topic])
    ensure_event_topics(broker, config, 2)
    again = log_identity(broker, config.topic)
    assert (again.cluster_id, again.topic) == (first.cluster_id, first.topic)
    with pytest.raises(
        AnotherLog, match=f"^a checkpoint has positions of topic .*{first.topic_id}.*{again.topic_id}.*; ask"
    ):
        again.check(first, owner="a checkpoint", advice="ask")


def test_a_topic_that_is_gone_is_not_made_by_asking_for_it(broker: str, config: KafkaConfig) -> None:
    ensure_event_topics(broker, config, 2)
    with closing(KafkaSource(broker, config, "", partitions=range(2))) as source, admin_client(broker, 10) as admin:
        source.end_positions()
        admin.delete_topics([config.topic])
        for ask in (source.end_positions, lambda: source.lag(1.0), lambda: source.poll(0.5)):
            with suppress(MindDistError):
                ask()
        assert config.topic not in admin.list_topics()


def poll_long(source: KafkaSource) -> None:
    for _ in range(60):
        source.poll(0.5)


def test_who_reads_a_topic_that_is_made_anew_is_told(broker: str, config: KafkaConfig) -> None:
    ensure_event_topics(broker, config, 1)
    with closing(KafkaSource(broker, config, "", partitions=[0])) as source, admin_client(broker, 10) as admin:
        source.poll(0.5)
        admin.delete_topics([config.topic])
        source.poll(0.5)
        ensure_event_topics(broker, config, 1)
        with pytest.raises(AnotherLog, match=config.topic):
            poll_long(source)
