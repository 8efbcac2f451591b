"""A small prepared dataset, its events as a log, and runs over them in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import ModelConfig, SampledConfig, TrainingConfig
from mind_dist.dataset.event_values import distinct_values, values_column, write_values
from mind_dist.dataset.item_catalog import FEATURE_VALUES, ITEM_SCHEMA
from mind_dist.dataset.parquet import (
    USER_SCHEMA,
    DatasetManifest,
    FeatureInfo,
    PreparedDataset,
    sequences_table,
    write_manifest,
)
from mind_dist.examples.events import EventExamples
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.examples.source import ExampleSource
from mind_dist.keys import NO_FEATURES, EventFeatures, feature_key, partition_of
from mind_dist.log.codec import PoisonGate, encode_event, encode_key
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun

NUM_BUCKETS = 4
NUM_ITEMS = 40
MODEL = ModelConfig(dim=8, num_interests=2, hidden_dims=(8,), num_profile_features=1)
TRAINING = TrainingConfig(
    batch_size=16,
    max_behaviors=6,
    num_targets=2,
    negatives=SampledConfig(count=20),
    learning_rate=0.01,
    epochs=2,
    seed=3,
)

FROM_LOG = dataclasses.replace(TRAINING, num_targets=1, epochs=0, lr_decay=False)
"""The same for the events of a log."""


def toy_users(num_users: int = 24) -> list[BehaviorSequence]:
    """Return users who walk through the items of their own half, some of them very short."""
    generator = np.random.default_rng(5)
    users = []
    for user in range(1, num_users + 1):
        length = int(generator.integers(1, 14))
        items = generator.integers(1, NUM_ITEMS // 2, size=length) + (user % 2) * NUM_ITEMS // 2
        times = np.sort(generator.choice(10_000, size=length, replace=False))
        users.append(BehaviorSequence(user, items.astype(np.int64), times.astype(np.int64)))
    return users


PRICE = FeatureInfo("price", "continuous")
READ = EventFeatures(behavior=("event_type",), context=("place", "hour"))
"""What is kept of each event where it is asked for."""


READING = dataclasses.replace(MODEL, behavior_features=READ.behavior, context_features=READ.context)
"""A model that reads it."""


def values_at(time_ms: int) -> dict[str, str | int | None]:
    """Return what a toy event says of itself: its type, and where and when it was; some do not say where."""
    place = None if time_ms % 5 == 0 else "home" if time_ms % 2 else "work"
    return {"event_type": "buy" if time_ms % 3 == 0 else "view", "place": place, "hour": time_ms % 4}


def write_dataset(
    path: Path | str, *, priced: bool = False, told: bool = False, users_per_block: int | None = None
) -> str:
    """Write the toy users as the train split; items have a feature, users a profile.

    Where asked for, items have a price, events (`told`) say what they are and when they happened, and buckets have several
    blocks.
    """
    directory, users = Directory.at(path), toy_users()
    kept = READ if told else NO_FEATURES
    bucket_of = partition_of(np.array([user.user_key for user in users]), NUM_BUCKETS)
    for bucket in range(NUM_BUCKETS):
        inside = [user for user, at in zip(users, bucket_of, strict=True) if at == bucket]
        directory.write_table(
            f"sequences/train/bucket-{bucket:05d}.parquet", _told(inside, kept), rows_at_once=users_per_block
        )
    write_values(directory, _values(_told(users, kept), kept))
    keys, counts = np.unique(np.concatenate([user.item_keys for user in users]), return_counts=True)
    features = [[feature_key("half", int(key) > NUM_ITEMS // 2)] for key in keys]
    columns = [pa.array(keys), pa.array([str(key) for key in keys]), pa.array(counts), pa.array(features)]
    items = pa.Table.from_arrays(columns, schema=ITEM_SCHEMA)
    directory.write_table("items.parquet", _priced(items) if priced else items)
    profiles = [[feature_key("odd", user.user_key % 2) if user.user_key % 3 else 0] for user in users]
    ids = [user.user_key for user in users]
    table = pa.table([ids, [str(user) for user in ids], profiles], schema=USER_SCHEMA)
    directory.write_table("users.parquet", table)
    manifest = DatasetManifest(
        id_type="int64",
        num_buckets=NUM_BUCKETS,
        num_users={"train": len(users)},
        num_events={"train": int(counts.sum())},
        num_items=len(keys),
        first_ms=0,
        last_ms=10_000,
        item_features=(FeatureInfo("half"), *([PRICE] if priced else [])),
        profile_features=(FeatureInfo("odd"),),
        behavior_features=kept.behavior,
        context_features=kept.context,
    )
    write_manifest(directory, manifest)
    return directory.uri


def _told(users: list[BehaviorSequence], features: EventFeatures) -> pa.Table:
    """Return sequences with what the events say."""
    table = sequences_table(users)
    for name in (*features.behavior, *features.context):
        found = [[values_at(time)[name] for time in times] for times in table["timestamps_ms"].to_pylist()]
        texts = pa.array(found).cast(pa.list_(pa.string()))
        table = table.append_column(values_column(name), texts)
    return table


def _values(sequences: pa.Table, features: EventFeatures) -> pa.Table:
    names, values = distinct_values(sequences, (*features.behavior, *features.context))
    lists = [pa.array([each], pa.list_(pa.string())) for each in (names, values)]
    return pa.table(lists, names=["value_names", "values"])


def _priced(items: pa.Table) -> pa.Table:
    """Return items with a price, which every fifth of them lacks."""
    prices = [None if key % 5 == 0 else key / NUM_ITEMS - 0.5 for key in items["item_id"].to_pylist()]
    return items.append_column(FEATURE_VALUES, pa.FixedSizeListArray.from_arrays(pa.array(prices, pa.float32()), 1))


def toy_log(*, poison_every: int = 0, told: bool = False) -> InMemoryLog:
    """Return the toy users' behaviors in time order as events; some users are forgotten half way."""
    behaviors = [
        (int(time), user.user_key, int(item))
        for user in toy_users()
        for item, time in zip(user.item_keys, user.timestamps_ms, strict=True)
    ]
    log = InMemoryLog(num_partitions=NUM_BUCKETS)
    for number, (time, user, item) in enumerate(sorted(behaviors)):
        partition = int(partition_of(np.array([user]), NUM_BUCKETS)[0])
        log.append(encode_key(user), _event(user, item, time) if told else encode_event(user, item, time), partition)
        if poison_every and number % poison_every == 0:
            log.append(encode_key(user), b"{", partition)
        if number % 29 == 28:
            log.append(encode_key(user), None, partition)
    return log


def _event(user: int, item: int, time_ms: int) -> bytes:
    said = values_at(time_ms)
    context = {name: value for name, value in said.items() if name != "event_type" and value is not None}
    return encode_event(user, item, time_ms, str(said["event_type"]), context)


def parquet_examples(
    dataset: PreparedDataset,
    config: TrainingConfig,
    version: ModelVersion | None = None,
    partitions: Any = None,
    features: EventFeatures = NO_FEATURES,
) -> ParquetExamples:
    """Open the dataset where a version stands."""
    return ParquetExamples(
        dataset,
        range(NUM_BUCKETS) if partitions is None else partitions,
        max_behaviors=config.max_behaviors,
        num_targets=config.num_targets,
        window_stride=config.stride,
        epochs=config.num_epochs,
        seed=config.seed,
        positions=version.manifest.positions if version else None,
        features=features,
    )


def event_examples(
    log: InMemoryLog,
    version: ModelVersion | None = None,
    *,
    max_records: int = 500,
    dataset: PreparedDataset | None = None,
    **options: Any,
) -> EventExamples:
    """Open the log where a version stands."""
    partitions = options.pop("partitions", range(log.num_partitions))
    if version:
        options["positions"] = version.manifest.positions
        options["histories"] = {p: version.history(p) for p in partitions}
    return EventExamples(
        options.pop("open_source", lambda partition: InMemorySource(log, "training", [partition], max_records)),
        partitions,
        "int64",
        options.pop("dead_letters", InMemoryDeadLetters()),
        options.pop("gate", PoisonGate(0.5, 1000)),
        max_behaviors=options.pop("max_behaviors", TRAINING.max_behaviors),
        max_clock_skew_ms=options.pop("max_clock_skew_ms", 3_600_000),
        profiles=dataset.profiles() if dataset else None,
        num_profile_features=1 if dataset else 0,
        **options,
    )


def open_run(
    examples: ExampleSource, dataset: PreparedDataset, version: ModelVersion | None = None, **options: Any
) -> TrainingRun:
    """Return a run over examples, going on from a version if one is given."""
    model, config = options.pop("model", MODEL), options.pop("config", TRAINING)
    run = TrainingRun(examples, dataset, model, config, source="toy", **options)
    if version:
        run.resume(version)
    return run
