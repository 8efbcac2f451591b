"""One raw log gives the same sequences, whichever way it takes: prepared, replayed to serving, replayed to training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mind_dist.config import KafkaConfig, LogConfig, ModelConfig, StatesConfig, ViewsConfig
from mind_dist.dataset.replay import log_events, rows
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.keys import behavior_key
from mind_dist.log.codec import encode_event, encode_history, encode_key
from mind_dist.log.source import InMemoryLog
from mind_dist.records import MAX_TIES, BehaviorSequence
from mind_dist.states.updater import UpdateStep
from tests.one_order import FEATURES, NUM_PARTITIONS, Behaviors, Line, expected, home, prepared, told, written
from tests.toy_serving import DIM, INFO, VERSION, Crash, CrashAt, Run, ToyEncoder, toy_config, toy_manifest
from tests.toy_training import event_examples

lines = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 5), st.sampled_from(["buy", "rent", "seen"]))
raw_logs = st.lists(lines, min_size=1, max_size=60)


class Reader(NamedTuple):
    """How a log is read: the longest history, what counts, how polls are cut and where the updater dies."""

    length: int
    event_types: tuple[str, ...]
    max_poll_records: int
    killed_at: list[tuple[UpdateStep, int]]


readers = st.builds(
    Reader,
    st.sampled_from([1, 2, 4, 200]),
    st.sampled_from([("buy", "rent"), ("buy",), ()]),
    st.integers(1, 9),
    st.lists(st.tuples(st.sampled_from(UpdateStep), st.integers(0, 3)), max_size=2),
)

FORGOTTEN_TIE: list[Line] = [(0, item, 3, "buy") for item in (4, 2, 0, 4, 1, 4, 2)]
"""A history of two forgets the first item at a time that it still has others of, and then the event is sent again."""


def in_kafka(events: Iterable[Line]) -> InMemoryLog:
    kafka = InMemoryLog(NUM_PARTITIONS)
    for user, item, time, kind in events:
        kafka.append(encode_key(user), encode_event(user, item, time, kind), home(user))
    return kafka


def replayed(log: LogConfig) -> InMemoryLog:
    """Replay the raw log in the order of its times, with events of all types."""
    events, _ = log_events(LogConfig(log.paths, time_unit="order", event_type_column="kind"), "int64")
    return in_kafka((user, item, time, kind) for user, item, time, kind, _ in rows(events))


def serving(log: InMemoryLog, reader: Reader, folder: Path) -> Run:
    store = InMemoryVectorStore()
    store.create_version(
        dataclasses.replace(INFO, max_behaviors=reader.length + MAX_TIES, behavior_features=FEATURES.behavior)
    )
    manifest = toy_manifest(*reader.event_types)
    encoder = ToyEncoder(
        reader.length, ModelConfig(dim=DIM, num_interests=2, behavior_features=FEATURES.behavior), manifest
    )
    kafka = KafkaConfig(max_poll_records=reader.max_poll_records)
    config = toy_config(kafka=kafka, states=StatesConfig(max_history=1000), views=ViewsConfig(batch_size=7))
    return Run(log, folder, store, encoder=encoder, config=config)


def served(run: Run, killed_at: list[tuple[UpdateStep, int]]) -> Behaviors:
    """Take the log in, dying at some steps, and make the rows."""
    for step, batch in killed_at:
        updater = run.updater(CrashAt(step, batch))
        try:
            run.drain(updater)
        except Crash:
            pass
        finally:
            updater.close()
    updater = run.updater()
    run.drain(updater)
    run.write(run.view())
    updater.close()
    found = run.store.scan_users(VERSION)
    return {
        row.user_key: told(BehaviorSequence(0, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys))
        for row in found
    }


def imported(users: Iterable[BehaviorSequence], log: list[Line]) -> InMemoryLog:
    """Return a log in which what a dataset knows of its users comes first, and then all events once more."""
    kinds = {behavior_key("event_type", kind): kind for *_, kind in log}
    kafka = InMemoryLog(NUM_PARTITIONS)
    for user in users:
        told_of = [[item, time, kinds[keys[0]]] for item, time, *keys in told(user)]
        kafka.append(encode_key(user.user_key), encode_history(user.user_key, told_of), home(user.user_key))
    for user_key, item, time, kind in log:
        kafka.append(encode_key(user_key), encode_event(user_key, item, time, kind), home(user_key))
    return kafka


def trained(log: InMemoryLog, reader: Reader) -> Behaviors:
    examples = event_examples(log, event_types=reader.event_types, max_behaviors=reader.length, features=FEATURES)
    for partition in examples.partitions:
        while not examples.finished() and len(examples.take(partition, 10)):
            pass
    users = [history.sequence for partition in examples.partitions for history in examples.history(partition)]
    return {user.user_key: told(user) for user in users}


@settings(max_examples=20)
@given(raw_logs, readers, st.integers(0, 99))
@example(FORGOTTEN_TIE, Reader(2, (), 3, []), 0)
def test_a_raw_log_gives_each_user_the_same_sequence_on_every_way(
    tmp_path_factory: pytest.TempPathFactory, log: list[Line], reader: Reader, seed: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    config = written(path, log, reader.event_types)
    truth = expected(log, reader.length, reader.event_types)
    users = prepared(path, config, seed)
    assert {user: told(sequence) for user, sequence in users.items()} == expected(log, len(log), reader.event_types)
    assert {user: told(sequence.newest(reader.length)) for user, sequence in users.items()} == truth
    for number, kafka in enumerate((replayed(config), in_kafka(log), imported(users.values(), log))):
        run = serving(kafka, reader, path / f"states-{number}")
        seen = served(run, reader.killed_at)
        # a user none of whose events the version takes has a row without behaviors
        assert {user: behaviors for user, behaviors in seen.items() if behaviors} == truth
    for kafka in (replayed(config), in_kafka(log)):
        assert trained(kafka, reader) == truth
