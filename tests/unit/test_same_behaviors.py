"""One raw log gives the same sequences, whichever way it takes: prepared, replayed to serving, replayed to training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mind_dist.config import KafkaConfig, LogConfig, ModelConfig
from mind_dist.dataset.replay import log_events, rows
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryLog
from mind_dist.publishing.backfill import from_sequences
from mind_dist.records import MAX_TIES, BehaviorSequence, no_keys
from mind_dist.serving.updater import UpdateStep
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
    st.lists(st.tuples(st.sampled_from(UpdateStep), st.integers(0, 3)), max_size=3),
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


def serving(log: InMemoryLog, reader: Reader) -> Run:
    store = InMemoryVectorStore()
    store.create_version(
        dataclasses.replace(INFO, max_behaviors=reader.length + MAX_TIES, behavior_features=FEATURES.behavior)
    )
    manifest = toy_manifest(*reader.event_types)
    encoder = ToyEncoder(
        reader.length, ModelConfig(dim=DIM, num_interests=2, behavior_features=FEATURES.behavior), manifest
    )
    config = toy_config(kafka=KafkaConfig(max_poll_records=reader.max_poll_records))
    return Run(log, store, encoder=encoder, config=config)


def served(run: Run, killed_at: list[tuple[UpdateStep, int]]) -> Behaviors:
    """Take the log in, dying at some steps, and then all of it once more as a new group does."""
    for step, batch in killed_at:
        try:
            run.drain(run.updater(CrashAt(step, batch)))
        except Crash:
            continue
    for group in (run.group, "from the beginning"):
        run.group = group
        run.drain(run.updater())
    found = run.store.scan_users(VERSION)
    return {
        row.user_key: told(BehaviorSequence(0, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys))
        for row in found
    }


def publish(run: Run, users: Iterable[BehaviorSequence], length: int) -> None:
    """Write users of a dataset as publishing does; their rows know no position of a log."""
    vectors, weights = np.zeros((0, DIM), np.float32), np.zeros(0, np.float32)
    sequences = [history.sequence for history in from_sequences(users, length)]
    user_rows = [
        UserRow(s.user_key, vectors, weights, s.item_keys, s.timestamps_ms, no_keys(), behavior_keys=s.behavior_keys)
        for s in sequences
    ]
    run.store.upsert_users(VERSION, user_rows)


def trained(log: InMemoryLog, reader: Reader) -> Behaviors:
    examples = event_examples(log, event_types=reader.event_types, max_behaviors=reader.length, features=FEATURES)
    for partition in examples.partitions:
        while not examples.finished() and len(examples.take(partition, 10)):
            pass
    users = [history.sequence for partition in examples.partitions for history in examples.history(partition)]
    return {user.user_key: told(user) for user in users}


@settings(max_examples=60)
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
    for kafka in (replayed(config), in_kafka(log)):
        assert served(serving(kafka, reader), reader.killed_at) == truth
        assert trained(kafka, reader) == truth
        published = serving(kafka, reader)
        publish(published, users.values(), reader.length)
        assert served(published, reader.killed_at) == truth
