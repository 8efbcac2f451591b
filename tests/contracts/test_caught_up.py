"""Whether a version's rows have come to where the states ended, over every broker."""

import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_event_topics
from mind_dist.log.kafka_groups import has_members
from mind_dist.views.caught_up import CaughtUp
from mind_dist.views.positions import KafkaViewPositions
from tests.replicas import eventually, kafka_config
from tests.services import BROKERS

INFO = VersionInfo("v1", 4, 2, "cosine", "", max_behaviors=5, published_ms=7)
PARTITIONS = 2


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
def kafka(broker: str) -> KafkaConfig:
    config = kafka_config(f"events-{uuid.uuid4().hex}")
    ensure_event_topics(broker, config, PARTITIONS)
    return config


@pytest.fixture
def updaters(broker: str, kafka: KafkaConfig) -> Iterator[KafkaSource]:
    with closing(KafkaSource(broker, kafka, kafka.updaters_group)) as member:
        eventually(lambda: member.poll(0.1) or member.assignment())
        yield member


def write_states(broker: str, kafka: KafkaConfig, count: int) -> None:
    """Write some records to the log of states: what they say is no matter here."""
    of_states = dataclasses.replace(kafka, topic=kafka.states_topic)
    with closing(EventProducer(broker, of_states)) as producer:
        for user in range(count):
            producer.send(user, 1, 1)


def test_without_users_nobody_is_waited_for(broker: str, kafka: KafkaConfig) -> None:
    assert CaughtUp(broker, kafka)(INFO)
    assert CaughtUp(broker, dataclasses.replace(kafka, states_topic="never-made"))(INFO)


@pytest.mark.usefixtures("updaters")
def test_it_is_there_when_the_view_has_come_to_where_the_states_ended(broker: str, kafka: KafkaConfig) -> None:
    assert has_members(broker, kafka, kafka.updaters_group)
    write_states(broker, kafka, 40)
    caught_up = CaughtUp(broker, kafka, patience_s=0)
    assert not caught_up(INFO)
    of_states = dataclasses.replace(kafka, topic=kafka.states_topic)
    with closing(KafkaSource(broker, of_states, "", partitions=range(PARTITIONS))) as source:
        ends = source.end_positions()
    assert all(ends.values())
    with closing(KafkaViewPositions(broker, kafka, INFO, PARTITIONS)) as positions:
        positions.store({0: ends[0], 1: ends[1] - 1}, {0: "", 1: ""})
        assert not caught_up(INFO)
        positions.store({1: ends[1]}, {1: "7"})
    with closing(KafkaViewPositions(broker, kafka, INFO, PARTITIONS)) as positions:
        assert positions.stored([0, 1]) == ends
        notes = positions.notes([0, 1])
    write_states(broker, kafka, 10)  # what comes later is not waited for
    assert caught_up(INFO)
    assert not CaughtUp(broker, kafka)(INFO)
    assert not CaughtUp(broker, kafka)(dataclasses.replace(INFO, published_ms=8))
    assert notes in ({0: "", 1: "7"}, {0: "", 1: ""})  # Tansu keeps none


def test_updaters_that_are_not_there_are_waited_for_a_while_and_then_said_to_be_missing(
    broker: str, kafka: KafkaConfig
) -> None:
    write_states(broker, kafka, 1)
    now = [0.0]
    caught_up = CaughtUp(broker, kafka, patience_s=30, clock=lambda: now[0])
    assert not caught_up(INFO)
    now[0] = 29
    assert not caught_up(INFO)
    with closing(KafkaSource(broker, kafka, kafka.updaters_group)) as member:
        eventually(lambda: member.poll(0.1) or member.assignment())
        now[0] = 31
        assert not caught_up(INFO)
    assert not has_members(broker, kafka, kafka.updaters_group)
    now[0] = 60
    assert not caught_up(INFO)
    now[0] = 61
    with pytest.raises(PublishError, match=r"no updater makes their rows for v1: start python -m jobs\.serve, or set"):
        caught_up(INFO)
