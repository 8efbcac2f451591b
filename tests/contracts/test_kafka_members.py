"""Members of a group: partitions that stay with their owner while others move, and members that are known again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.errors import ConfigError, StaleAssignment
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.kafka_broker import admin_client
from mind_dist.log.kafka_members import GroupName
from tests.group_member import member_process
from tests.services import BROKERS

PARTITIONS = 4
WITHIN_S = 30.0
where_members_are_static = pytest.mark.parametrize(
    "broker", [name for name in BROKERS if name != "tansu_broker"], indirect=True
)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def config(broker: str) -> KafkaConfig:
    config = KafkaConfig(f"events-{uuid.uuid4().hex}", connect_timeout_s=20, session_timeout_s=6)
    ensure_topics(broker, {config.topic: PARTITIONS})
    return config


@contextmanager
def joined(broker: str, config: KafkaConfig, count: int) -> Iterator[list[KafkaSource]]:
    """Yield members that share the partitions evenly."""
    members: list[KafkaSource] = []
    try:
        for _ in range(count):
            members.append(KafkaSource(broker, config, config.topic))
            poll_until(members, lambda: sizes(members) == [PARTITIONS // len(members)] * len(members))
        yield members
    finally:
        for member in members:
            member.close()


def sizes(members: Sequence[KafkaSource]) -> list[int]:
    return [len(member.assignment()) for member in members]


def poll_until(members: Sequence[KafkaSource], condition: Callable[[], bool]) -> list[list[frozenset[int]]]:
    """Poll all in turn until a condition holds, and return what each owned after each poll."""
    owned: list[list[frozenset[int]]] = [[] for _ in members]
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, f"in the end they own {sizes(members)}"
        for member, seen in zip(members, owned, strict=True):
            member.poll(0.05)
            seen.append(member.assignment())
    return owned


@where_members_are_static
def test_members_that_cooperate_never_give_up_nor_read_again_what_stays(
    broker: str, config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky")
    with closing(EventProducer(broker, config)) as producer:
        for user in range(40):
            producer.send(user, 1, 1)
    with joined(broker, config, 1) as (first,):
        poll_until([first], lambda: sum(first.position().values()) == 40)
        reached = first.position()  # nothing of it is stored: what is given up would be read again
        with closing(KafkaSource(broker, config, config.topic)) as second:
            [owned, _] = poll_until([first, second], lambda: sizes([first, second]) == [2, 2])
            kept = first.assignment()
            assert all(kept <= each for each in owned)
            assert first.position() == {partition: reached[partition] for partition in kept}
            with admin_client(broker, 20) as admin:
                assert admin.describe_groups([config.topic])[config.topic]["protocol_data"] == "cooperative-sticky"


@where_members_are_static
def test_a_static_member_comes_back_without_a_rebalance(
    broker: str, config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_GROUP_INSTANCE_ID", f"node-{uuid.uuid4().hex}")
    with joined(broker, config, 2) as members:
        first, second = members
        own, others = first.assignment(), second.assignment()
        second.close()
        members[1] = again = KafkaSource(broker, config, config.topic)
        [owned, _] = poll_until(members, lambda: again.assignment() == others)
        assert set(owned) <= {own}
        again.commit(again.position())


@where_members_are_static
def test_who_lost_its_name_to_another_may_not_store_positions(
    broker: str, config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_GROUP_INSTANCE_ID", f"node-{uuid.uuid4().hex}")
    with joined(broker, config, 1) as (first,):
        assert first._name is not None
        first._name.close()  # as on two machines with one name
        with closing(KafkaSource(broker, config, config.topic)) as twin:
            poll_until([twin], lambda: sizes([twin]) == [PARTITIONS])
            with pytest.raises(StaleAssignment):
                first.commit({0: 0})


def test_members_of_a_machine_have_names_of_their_own_and_the_next_one_gets_that_of_a_dead_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = uuid.uuid4().hex
    monkeypatch.setenv("MIND_DIST_KAFKA_GROUP_INSTANCE_ID", name)
    first, second = GroupName("g", can_cooperate=True), GroupName("g", can_cooperate=True)
    other_group = GroupName("h", can_cooperate=True)
    assert [each.instance_id for each in (first, second, other_group)] == [f"{name}-0", f"{name}-1", f"{name}-0"]
    first.close()
    again = GroupName("g", can_cooperate=True)
    assert again.instance_id == f"{name}-0"
    for each in (second, other_group, again):
        each.close()


@where_members_are_static
def test_a_member_that_was_killed_leaves_its_name(
    broker: str, config: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_GROUP_INSTANCE_ID", name := uuid.uuid4().hex)
    with member_process(broker, config, "g") as member:
        while not member.call("assignment"):
            member.call("poll", 0.2)
        with closing(GroupName("g", can_cooperate=True)) as meanwhile:
            assert meanwhile.instance_id == f"{name}-1"
    with joined(broker, config, 1) as (heir,):
        assert heir._name is not None
        assert heir._name.instance_id == f"{name}-0"


def test_a_name_that_no_broker_would_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_GROUP_INSTANCE_ID", "node 1")
    with pytest.raises(ConfigError, match=r"^MIND_DIST_KAFKA_GROUP_INSTANCE_ID: must be letters"):
        GroupName("g", can_cooperate=True)


def test_who_shares_out_partitions_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GroupName("g", can_cooperate=True).strategy == "range"
    monkeypatch.setenv("MIND_DIST_KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky")
    assert GroupName("g", can_cooperate=True).strategy == "cooperative-sticky"
    assert GroupName("g", can_cooperate=False).strategy == "range"


@where_members_are_static  # Tansu lets a member wait that joins anew though nothing has changed
def test_a_generation_shows_when_its_partitions_are_there(broker: str, config: KafkaConfig) -> None:
    with closing(KafkaSource(broker, config, config.topic, hold_new=True)) as member:
        poll_until([member], lambda: len(member.assignment()) == PARTITIONS)
        for _ in range(5):
            before = member.membership().generation
            member.resume(range(PARTITIONS))
            member._consumer._coordinator.request_rejoin()
            deadline_s = time.monotonic() + WITHIN_S
            while member.membership().generation == before:
                assert time.monotonic() < deadline_s
                member.poll(0.01)  # so short that a join takes several
            assert len(member._consumer.paused()) == PARTITIONS, "given anew, and so held"
