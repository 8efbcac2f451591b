"""One raw log gives the same behaviors, whichever way it takes: prepared, replayed to serving, replayed to training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.config import KafkaConfig, LogConfig, PrepareConfig
from mind_dist.data.codec import encode_event, encode_key
from mind_dist.data.raw_log import list_fragments
from mind_dist.data.replay import log_events, rows
from mind_dist.data.source import InMemoryLog
from mind_dist.data.staging import filter_buckets, group_buckets, stage_events
from mind_dist.data.times import Times
from mind_dist.index.memory import InMemoryVectorStore
from tests.toy_serving import INFO, VERSION, Run, ToyEncoder, toy_config, toy_manifest
from tests.toy_training import event_examples

NUM_PARTITIONS = 3
LONGEST = 200
KEPT = ("buy", "rent")

Line = tuple[int, int, int, str]
Behaviors = dict[int, Counter[tuple[int, int]]]
"""User → how often each (item, time) is in the history."""

lines = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5), st.sampled_from(["buy", "rent", "seen"]))
raw_logs = st.lists(lines, min_size=1, max_size=60)


def written(path: Path, log: list[Line], event_types: tuple[str, ...]) -> LogConfig:
    columns = zip(*log, strict=True)
    table = pa.table(list(columns), names=["user_id", "item_id", "timestamp", "kind"])
    pq.write_table(table, path / "log.parquet", row_group_size=7)
    files = (str(path / "log.parquet"),)
    return LogConfig(files, time_unit="order", event_type_column="kind", event_types=event_types)


def prepared(path: Path, log: LogConfig) -> Behaviors:
    """Prepare with nothing too rare or too short to keep."""
    config = PrepareConfig(str(path / "out"), log, num_buckets=NUM_PARTITIONS, min_item_events=1, min_user_events=1)
    parts = pa.Table.from_pylist([vars(part) for part in list_fragments(log)])
    files = pa.concat_tables(stage_events(parts, config, Times("order", 0)))["file"].to_pylist()
    buckets = pa.table({"part": range(NUM_PARTITIONS)})
    list(group_buckets(buckets, config, files))
    list(filter_buckets(buckets, config, np.arange(4)))
    users = pq.read_table(path / "out/staging/sequences").to_pylist()
    return {each["user_id"]: Counter(zip(each["item_ids"], each["timestamps_ms"], strict=True)) for each in users}


def replayed(log: LogConfig) -> InMemoryLog:
    """Replay the raw log with its own types, all of them."""
    kafka = InMemoryLog(NUM_PARTITIONS)
    events, _ = log_events(LogConfig(log.paths, time_unit="order", event_type_column="kind"), "int64")
    for user, *event in rows(events):
        kafka.append(encode_key(user), encode_event(user, *event), user % NUM_PARTITIONS)
    return kafka


def served(log: InMemoryLog, event_types: tuple[str, ...]) -> Behaviors:
    store = InMemoryVectorStore()
    store.create_version(dataclasses.replace(INFO, max_behaviors=LONGEST))
    encoder = ToyEncoder(max_behaviors=LONGEST, manifest=toy_manifest(*event_types))
    run = Run(log, store, encoder=encoder, config=toy_config(kafka=KafkaConfig(max_poll_records=16)))
    run.drain(run.updater())
    found = run.store.scan_users(VERSION)
    return {
        row.user_key: Counter(zip(row.behaviors.tolist(), row.timestamps_ms.tolist(), strict=True)) for row in found
    }


def trained(log: InMemoryLog, event_types: tuple[str, ...]) -> Behaviors:
    examples = event_examples(log, event_types=event_types, max_behaviors=LONGEST)
    for partition in examples.partitions:
        while len(examples.take(partition, 10).timestamps_ms):
            pass
    users = [history.sequence for partition in examples.partitions for history in examples.history(partition)]
    return {
        user.user_key: Counter(zip(user.item_keys.tolist(), user.timestamps_ms.tolist(), strict=True)) for user in users
    }


@pytest.mark.parametrize("event_types", [KEPT, ("buy",), ()], ids=["two types", "one type", "all types"])
@settings(max_examples=30)
@given(raw_logs)
def test_a_raw_log_gives_each_user_the_same_behaviors_on_every_way(
    tmp_path_factory: pytest.TempPathFactory, event_types: tuple[str, ...], log: list[Line]
) -> None:
    path = tmp_path_factory.mktemp("log")
    config = written(path, log, event_types)
    expected: Behaviors = {}
    for user, item, time, kind in log:
        if not event_types or kind in event_types:
            expected.setdefault(user, Counter())[item, time] = 1
    assert prepared(path, config) == expected
    assert served(replayed(config), event_types) == expected
    assert trained(replayed(config), event_types) == expected
