"""User states on real brokers: what is killed or frozen loses nothing, and writes nothing that it may not."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from mind_dist.errors import MindDistError
from mind_dist.log.kafka import ensure_topics, num_partitions
from mind_dist.log.kafka_broker import admin_client
from mind_dist.log.kafka_groups import end_positions, lag
from mind_dist.log.kafka_topics import ensure_state_topic
from mind_dist.log.kafka_transactions import KafkaTransactions
from mind_dist.log.kafka_unfinished import new_id
from mind_dist.log.transactions import Membership, NewRecord
from mind_dist.records import Record
from mind_dist.states.updater import StatesUpdater, UpdateStep
from tests import kafka_logs, states_process
from tests.forked import Forked, state_of
from tests.services import BROKERS
from tests.state_worlds import KeyValue, assert_states, in_order, mixed_log, told_by
from tests.states_process import MAX_HISTORY, StopsAt, kafka_config, owner

PARTITIONS = 2
WITHIN_S = 90
REAL = pytest.mark.parametrize("broker", [each for each in BROKERS if each != "tansu_broker"], indirect=True)


def send(address: str, topic: str, sent: list[KeyValue]) -> None:
    kafka_logs.send(address, topic, sent, PARTITIONS)


def read_all(address: str, topic: str, num_partitions: int = PARTITIONS) -> list[Record]:
    return kafka_logs.read_all(address, kafka_config(topic), num_partitions)


def run_to_end(updater: StatesUpdater, address: str, topic: str) -> None:
    """Let an owner work until the group has come to the end of the events."""
    config = kafka_config(topic)
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        assert time.monotonic() < deadline_s
        try:
            report = updater.step(0.1)
        except MindDistError:
            continue
        if not report.num_records and not lag(address, config, config.updaters_group, end_positions(address, config)):
            return


def check(address: str, topic: str, sent: Sequence[KeyValue] = ()) -> None:
    """Compare the states and the dead letters with what the whole log says, or with what was sent."""
    wanted = told_by(in_order(sent) if sent else read_all(address, topic), MAX_HISTORY)
    assert_states(read_all(address, f"{topic}-states"), wanted)
    assert len(read_all(address, f"{topic}-dead", 1)) == len(wanted.poison)


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
def topic(broker: str) -> str:
    return new_topic(broker, seed=1)


def new_topic(address: str, seed: int, num_records: int = 300) -> str:
    name = f"events-{uuid.uuid4().hex}"
    ensure_topics(address, {name: PARTITIONS})
    send(address, name, mixed_log(num_records, 20, seed))
    return name


def process(address: str, topic: str, folder: Path, step: UpdateStep, count: int) -> Forked:
    return Forked(states_process.main, address, topic, folder, StopsAt(step, count))


def wait_until_stopped(pid: int) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while (state := state_of(pid)) != "T":
        assert time.monotonic() < deadline_s
        assert state not in {"Z", ""}
        time.sleep(0.05)


def test_states_are_what_the_whole_log_gives(broker: str, topic: str, tmp_path: Path) -> None:
    with closing(owner(broker, topic, tmp_path, StopsAt(0, 0))) as updater:
        run_to_end(updater, broker, topic)
        check(broker, topic)
        send(broker, topic, mixed_log(100, 20, seed=2))
        run_to_end(updater, broker, topic)
    check(broker, topic)
    with closing(owner(broker, topic, tmp_path / "a new disk", StopsAt(0, 0))) as successor:
        send(broker, topic, mixed_log(50, 20, seed=3))
        run_to_end(successor, broker, topic)
    check(broker, topic)


def test_who_wakes_from_a_freeze_past_the_session_holds_nothing_until_it_has_asked(
    broker: str, topic: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.lease_process", broker, topic, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as frozen:
        wait_until_stopped(frozen.pid)
        time.sleep(kafka_config(topic).session_timeout_s + 1)
        frozen.send_signal(signal.SIGCONT)
        told, _ = frozen.communicate(timeout=WITHIN_S)
    assert told.split() == ["True", "False"]


@REAL
@pytest.mark.parametrize("writes", [True, False], ids=["states and positions", "positions alone"])
def test_who_takes_over_ends_what_the_one_before_has_left_under_way(
    broker: str, topic: str, tmp_path: Path, *, writes: bool
) -> None:
    config = replace(kafka_config(topic), transaction_timeout_s=600)
    group = Membership(config.updaters_group, 0, config.updaters_group)
    ensure_state_topic(broker, config)
    with closing(KafkaTransactions(broker, config, new_id(config.updaters_group))) as killed:
        left_under_way(killed, [NewRecord(config.states_topic, 0, b"1", b"never")] if writes else [], {0: 7}, group)
        with closing(owner(broker, topic, tmp_path, StopsAt(UpdateStep.POLL, 0))) as updater:
            run_to_end(updater, broker, topic)
            updater.step(0.1)
            with suppress(KafkaError):  # one that was frozen goes on
                killed._wait(killed._producer, killed._producer._transaction_manager.begin_commit(), "a commit")
            check(broker, topic)


@REAL
def test_what_a_failed_commit_has_left_under_way_ends_with_the_next_take_over(broker: str, topic: str) -> None:
    config = replace(kafka_config(topic), transaction_timeout_s=600)
    ensure_state_topic(broker, config)
    with closing(KafkaTransactions(broker, config, new_id(config.updaters_group))) as own:
        record = NewRecord(config.states_topic, 0, b"1", b"never")
        left_under_way(own, [record], {0: 7}, Membership(config.updaters_group, 0, config.updaters_group))
        own._drop()
        own.end_unfinished([0])
        with admin_client(broker, 10) as admin:
            [told] = admin.describe_transactions([own._transactional_id]).values()
        assert told.state != "Ongoing"


def left_under_way(
    transactions: KafkaTransactions, records: Sequence[NewRecord], positions: dict[int, int], membership: Membership
) -> None:
    """Leave a transaction as one that is killed before it commits."""
    producer = transactions._connected()
    producer.begin_transaction()
    for each in records:
        producer.send(each.topic, each.value, each.key, [], each.partition)
    producer.flush(timeout=20)
    stored = {
        TopicPartition(transactions._config.topic, p): OffsetAndMetadata(at, "", -1) for p, at in positions.items()
    }
    sent = producer._transaction_manager.send_offsets_to_transaction(stored, membership.token)
    transactions._wait(producer, sent, "storing positions")


@REAL
def test_added_partitions_are_followed_in_each_users_order(broker: str, tmp_path: Path) -> None:
    topic = f"events-{uuid.uuid4().hex}"
    ensure_topics(broker, {topic: PARTITIONS})
    before, after = mixed_log(200, 20, seed=1), mixed_log(400, 20, seed=2)
    send(broker, topic, before)
    with closing(owner(broker, topic, tmp_path, StopsAt(0, 0))) as updater:
        run_to_end(updater, broker, topic)
    with closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
        admin.create_partitions({topic: PARTITIONS + 3})
    while num_partitions(broker, topic) < PARTITIONS + 3:
        time.sleep(0.1)
    kafka_logs.send(broker, topic, after, PARTITIONS + 3)
    with process(broker, topic, tmp_path, UpdateStep.STORE, 6) as killed:
        wait_until_stopped(killed.pid)
    with closing(owner(broker, topic, tmp_path, StopsAt(0, 0))) as successor:
        run_to_end(successor, broker, topic)
        assert not successor.stopped
    check(broker, topic, [*before, *after])


def at_each_step(address: str, tmp_path: Path, end: signal.Signals) -> None:
    """Stop an owner in each of its steps, end it or let it wake, and compare what is there at last."""

    def one(step: UpdateStep) -> None:
        topic, folder = new_topic(address, seed=int(step)), tmp_path / step.name
        count = 12 if step == UpdateStep.POLL else 4
        with process(address, topic, folder, step, count) as stopped:
            wait_until_stopped(stopped.pid)
            if end == signal.SIGKILL:
                stopped.kill()
            with closing(owner(address, topic, folder, StopsAt(0, 0))) as successor:
                run_to_end(successor, address, topic)
                if end == signal.SIGCONT:
                    os.kill(stopped.pid, signal.SIGCONT)
                    send(address, topic, mixed_log(100, 20, seed=10 + step))
                    run_to_end(successor, address, topic)
            check(address, topic)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, list(UpdateStep)))


@REAL
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "frozen past its session and woken"])
def test_an_owner_stopped_in_any_step_loses_and_repeats_nothing(
    broker: str, tmp_path: Path, end: signal.Signals
) -> None:
    at_each_step(broker, tmp_path, end)
