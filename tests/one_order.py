"""A raw log with ties, duplicates and late events, and the ways it takes to a user's behaviors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mind_dist.config import LogConfig, PrepareConfig
from mind_dist.data.codec import partition_of
from mind_dist.data.raw_log import list_fragments
from mind_dist.data.staging import filter_buckets, group_buckets, stage_events
from mind_dist.data.times import Times
from mind_dist.records import BehaviorSequence

NUM_PARTITIONS = 3

Line = tuple[int, int, int, str]
"""User, item, time, event type."""
Behaviors = dict[int, list[tuple[int, int]]]
"""User → item and time of each behavior, in order."""


def expected(log: list[Line], length: int, event_types: tuple[str, ...] = ()) -> Behaviors:
    """Return each user's newest distinct behaviors in the order of (time, place), cut between different times."""
    found: Behaviors = {}
    for user, item, time, kind in log:
        if (not event_types or kind in event_types) and (item, time) not in found.setdefault(user, []):
            found[user].append((item, time))
    for user, behaviors in found.items():
        behaviors.sort(key=lambda behavior: behavior[1])
        first_ms = behaviors[max(0, len(behaviors) - length)][1] if behaviors else 0
        found[user] = [behavior for behavior in behaviors if behavior[1] >= first_ms]
    return {user: behaviors for user, behaviors in found.items() if behaviors}


def pairs(sequence: BehaviorSequence) -> list[tuple[int, int]]:
    return list(zip(sequence.item_keys.tolist(), sequence.timestamps_ms.tolist(), strict=True))


def written(path: Path, log: list[Line], event_types: tuple[str, ...] = ()) -> LogConfig:
    """Write the log as two files of small row groups."""
    half = len(log) // 2
    for name, part in (("a", log[:half]), ("b", log[half:])):
        columns = [list(column) for column in zip(*part, strict=True)] or [[], [], [], []]
        schema = pa.schema({"user_id": pa.int64(), "item_id": pa.int64(), "timestamp": pa.int64(), "kind": pa.string()})
        table = pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)
        pq.write_table(table, path / f"{name}.parquet", row_group_size=7)
    files = tuple(str(path / f"{name}.parquet") for name in "ab")
    return LogConfig(files, time_unit="order", event_type_column="kind", event_types=event_types)


def prepared(path: Path, log: LogConfig, seed: int = 0) -> dict[int, BehaviorSequence]:
    """Prepare with nothing too rare or too short to keep; the parts are read, and grouped, in any order."""
    config = PrepareConfig(str(path / "out"), log, num_buckets=NUM_PARTITIONS, min_item_events=1, min_user_events=1)
    generator = np.random.default_rng(seed)
    parts = pa.Table.from_pylist([vars(part) for part in list_fragments(log)])
    parts = parts.take(generator.permutation(parts.num_rows))
    files = pa.concat_tables(stage_events(parts, config, Times("order", 0)))["file"].to_pylist()
    buckets = pa.table({"part": range(NUM_PARTITIONS)})
    list(group_buckets(buckets, config, [files[place] for place in generator.permutation(len(files))]))
    list(filter_buckets(buckets, config, np.arange(1000)))
    users = pq.read_table(path / "out/staging/sequences").to_pylist()
    return {
        each["user_id"]: BehaviorSequence(
            each["user_id"], np.array(each["item_ids"], np.int64), np.array(each["timestamps_ms"], np.int64)
        )
        for each in users
    }


def home(user: int) -> int:
    return int(partition_of(np.array([user]), NUM_PARTITIONS)[0])
