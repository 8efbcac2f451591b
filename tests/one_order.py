"""A raw log with ties, duplicates and late events, and the ways it takes to a user's behaviors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mind_dist.config import LogConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset
from mind_dist.dataset.raw_log import list_fragments
from mind_dist.dataset.staging import filter_buckets, group_buckets, split_buckets, stage_events
from mind_dist.dataset.times import Times
from mind_dist.keys import EventFeatures, behavior_key, partition_of
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory

NUM_PARTITIONS = 3

Line = tuple[int, int, int, str]
"""User, item, time, event type."""
Behaviors = dict[int, list[tuple[int, ...]]]
"""User → item, time and key of the event type of each behavior, in order."""

FEATURES = EventFeatures(behavior=("event_type",))
"""What is read of each event beside item and time."""


def expected(log: list[Line], length: int, event_types: tuple[str, ...] = ()) -> Behaviors:
    """Return each user's newest distinct behaviors in the order of (time, place), cut between different times."""
    firsts: dict[tuple[int, int, int], str] = {}
    for user, item, time, kind in log:
        if not event_types or kind in event_types:
            firsts.setdefault((user, item, time), kind)
    found: Behaviors = {}
    for (user, item, time), kind in sorted(firsts.items(), key=lambda event: event[0][2]):
        found.setdefault(user, []).append((item, time, behavior_key("event_type", kind)))
    for user, behaviors in found.items():
        first_ms = behaviors[max(0, len(behaviors) - length)][1]
        found[user] = [behavior for behavior in behaviors if behavior[1] >= first_ms]
    return found


def told(sequence: BehaviorSequence) -> list[tuple[int, ...]]:
    """Return item, time and the keys of what else is read of each behavior."""
    rows = zip(sequence.item_keys, sequence.timestamps_ms, sequence.behavior_keys, strict=True)
    return [(int(item), int(time), *keys.tolist()) for item, time, keys in rows]


def written(path: Path, log: list[Line], event_types: tuple[str, ...] = ()) -> LogConfig:
    """Write the log as two files of small row groups."""
    half = len(log) // 2
    for name, part in (("a", log[:half]), ("b", log[half:])):
        columns = [list(column) for column in zip(*part, strict=True)] or [[], [], [], []]
        schema = pa.schema({"user_id": pa.int64(), "item_id": pa.int64(), "timestamp": pa.int64(), "kind": pa.string()})
        table = pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)
        pq.write_table(table, path / f"{name}.parquet", row_group_size=7)
    files = tuple(str(path / f"{name}.parquet") for name in "ab")
    return LogConfig(
        files, time_unit="order", event_type_column="kind", event_types=event_types, behavior=FEATURES.behavior
    )


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
    nowhere: list[list[int]] = [[]] * NUM_PARTITIONS  # split by time, users have no places
    list(split_buckets(buckets.append_column("places", pa.array(nowhere)), by_time(config)))
    counts: dict[str, int] = {}
    dataset = PreparedDataset(
        Directory.at(config.output),
        DatasetManifest("int64", NUM_PARTITIONS, counts, counts, 0, 0, 0, behavior_features=FEATURES.behavior),
        digest="",
    )
    return {sequence.user_key: sequence for sequence in dataset.sequences("train")}


def by_time(config: PrepareConfig) -> PrepareConfig:
    """Return settings by which everybody is trained on with everything."""
    return replace(config, split=SplitConfig(by="time", train_before_ms=1000, valid_before_ms=1000))


def home(user: int) -> int:
    return int(partition_of(np.array([user]), NUM_PARTITIONS)[0])
