"""Stopped partitions on real brokers: they are shown, and go on while their owner runs."""

import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from jobs import partitions
from mind_dist.config import KafkaConfig, StatesConfig
from mind_dist.errors import ConfigError
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.kafka import KafkaSource, ensure_topics
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater
from tests import kafka_logs
from tests.contracts.test_states_on_kafka import send
from tests.services import BROKERS
from tests.state_worlds import KeyValue

TIME_MS = 1_000_000_000_000


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    address: str = request.getfixturevalue(request.param)
    monkeypatch.setenv("MIND_DIST_KAFKA", address)
    return address


def step_until(updater: StatesUpdater, broker: str, kafka: KafkaConfig, wanted: dict[int, int]) -> None:
    deadline_s = time.monotonic() + 60
    with closing(KafkaSource(broker, kafka, kafka.updaters_group, partitions=range(2))) as watcher:
        while dict(watcher.committed()) != wanted:
            assert time.monotonic() < deadline_s, (watcher.committed(), wanted)
            updater.step(0.1)
            updater.look_at_stopped()


def test_a_partition_that_stopped_is_shown_and_goes_on_while_its_owner_runs(
    request: pytest.FixtureRequest, broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"events-{uuid.uuid4().hex}"
    kafka = KafkaConfig(
        name,
        f"{name}-dead",
        f"{name}-states",
        group_prefix=name,
        connect_timeout_s=20,
        max_poison_fraction=0.4,
        poison_window=10,
        max_poll_records=5,
    )
    ensure_topics(broker, {name: 2})
    good, bad = 0, 1
    users = [next(u for u in range(50) if home(u) == p) for p in (good, bad)]
    send(broker, name, [event(users[good], place) for place in range(20)])
    send(broker, name, [event(users[bad], place) for place in range(4)])
    send(broker, name, [KeyValue(encode_key(users[bad]), b"{")] * 16)
    states = StatesConfig(directory=str(tmp_path))
    with closing(states_on_kafka(broker, kafka, states, "int64", shared=SharedStores(60))) as updater:
        deadline_s = time.monotonic() + 60
        while not updater.stopped:
            assert time.monotonic() < deadline_s
            updater.step(0.1)
        stopped_at = updater.partitions[bad].stored
        step_until(updater, broker, kafka, {good: 20, bad: stopped_at})
        partitions.main(partitions.Partitions(kafka=kafka))
        shown = "stopped:" in capsys.readouterr().out
        assert shown == ("tansu" not in request.node.name), "Tansu keeps no word of it"
        with pytest.raises(ConfigError, match="partition 0 has not stopped"):
            partitions.main(partitions.Partitions(go_on=(good,), kafka=kafka))
        with pytest.raises(ConfigError, match=r"has the positions 0 … 20, not 21"):
            partitions.main(partitions.Partitions(reset=(f"{bad}=21",), kafka=kafka, force=not shown))
        partitions.main(partitions.Partitions(reset=(f"{bad}=end",), kafka=kafka, force=not shown))
        send(broker, name, [event(users[bad], 100)])
        step_until(updater, broker, kafka, {good: 20, bad: 21})
        assert not updater.stopped


def home(user: int) -> int:
    return home_partition(key_hash(encode_key(user)), 2)


def event(user: int, place: int) -> KeyValue:
    return KeyValue(encode_key(user), encode_event(user, place, TIME_MS + place))


def test_an_added_partition_is_put_elsewhere_though_it_has_no_states(
    broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"events-{uuid.uuid4().hex}"
    kafka = KafkaConfig(name, f"{name}-dead", f"{name}-states", group_prefix=name, connect_timeout_s=20)
    ensure_topics(broker, {name: 3, kafka.states_topic: 2})
    kafka_logs.send(broker, name, [event(user, 0) for user in range(20)], 3)
    partitions.main(partitions.Partitions(reset=("2=end",), force=True, kafka=kafka))
    assert "partitions 2 go on" in capsys.readouterr().out
    with closing(KafkaSource(broker, kafka, kafka.updaters_group, partitions=[2])) as source:
        assert source.committed() == source.end_positions()
