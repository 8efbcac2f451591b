"""Raw logs → prepared dataset, with Ray Data; the log may be larger than the memory of any machine.

    1 read       each part of the log: clean, reject, count items, stage the events by user bucket
    2 group      each bucket: sort each user's events by time, drop duplicates, keep the newest, stage the users
    3 filter     each bucket: drop rare items and then short users, stage the sequences
    4 split      each bucket: write train, valid and test
    5 describe   items.parquet, users.parquet, and at last manifest.json

Items are counted after duplicates are dropped and users are cut to their newest events (2), so that neither a log that
was written twice nor a bot with 50,000 events makes an item frequent.

The shuffle by user goes through files under the output (`mind_dist.dataset.staging`), not through Ray's object store: no
event stays in memory for longer than its batch, a lost task just writes its file again, and a small log does not wait
for shuffle workers to start. This process collects tables with one row an item and one row a user, never events.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from pyarrow import compute as pc
from ray.exceptions import RayTaskError

from mind_dist.config import MetadataConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.catalog import catalog_items, read_availability
from mind_dist.dataset.event_values import VALUES, write_values
from mind_dist.dataset.features import (
    Features,
    bags,
    feature_values,
    no_features,
    profiles,
    raw_profiles,
    read_features,
)
from mind_dist.dataset.item_catalog import FEATURE_VALUES, IS_COLD, ITEM_SCHEMA
from mind_dist.dataset.item_counts import ItemCounts
from mind_dist.dataset.parquet import RAW_PROFILE, USER_SCHEMA, DatasetManifest, write_manifest
from mind_dist.dataset.prepare_report import check_rejected, filter_steps, no_events, nothing_left, total
from mind_dist.dataset.raw_log import Fragment, list_fragments
from mind_dist.dataset.staging import READ_SCHEMA, SPLITS, filter_buckets, group_buckets, split_buckets, stage_events
from mind_dist.dataset.times import Times, times_of
from mind_dist.errors import ConfigError, DatasetError, MindDistError
from mind_dist.records import Keys
from mind_dist.storage import Directory

_PARTS = ("staging", "rejected", "sequences", "activity", "items.parquet", "users.parquet", VALUES)
"""What a dataset consists of, or did while it was written, besides its manifest."""

_ROWS_PER_TASK = 1 << 21
"""Fewer rows are quicker in one process than in several that must start first."""

_MOST_READ_TASKS = 256

Advance = Callable[[str, int, int], None]
"""Progress callback: stage, parts begun, total parts."""


def _silent(_stage: str, _begun: int, _total: int) -> None: ...


def prepare(config: PrepareConfig, advance: Advance = _silent) -> DatasetManifest:
    """Write a prepared dataset. Ray must be connected.

    By user, users in the order in which the log first names them are shuffled with the seed and cut by the fractions.
    By time, a train user has the events before `train_before_ms`; a valid user those before `valid_before_ms`, of
    which the ones from `train_before_ms` on are to be found; a test user all events, of which the ones from
    `valid_before_ms` on are to be found. A user is in valid or test only with events on both sides of the cut.
    Leave-one-out, of every user with three events the last is to be found by test, the one before it by valid.

    Of events with the same user, item and time the first stays, before anything is counted: `min_item_events` and
    `min_user_events` count distinct events. Item counts, and so every popularity, come from train alone. Behaviors of
    equal time stay in the log's order.

    Args:
        config: What to prepare, and how.
        advance: Progress callback: stage, parts begun, total parts.

    Raises:
        ConfigError: No log is named, or the unit of its times cannot be told.
        DatasetError: The output holds a dataset already, a file is missing or torn, too many of the log's rows are
            unusable (`rejected/` has them), the metadata cannot be used, or nothing is left after filtering.
    """
    if not config.log.paths:
        raise ConfigError("log.paths", "must name at least one file or directory")
    target = Directory.at(config.output)
    fragments = list_fragments(config.log)
    times = times_of(config.log, fragments, int(time.time() * 1000))
    # Tasks run in the cluster's own directories: a relative output would be another place there.
    log = dataclasses.replace(config.log, time_unit=times.unit)
    config = dataclasses.replace(config, output=target.uri, log=log)
    _clear(target, overwrite=config.overwrite)
    with _quiet_ray_data():
        manifest = _prepare(config, fragments, times, target, advance)
    (target / "staging").delete()
    write_manifest(target, manifest)
    return manifest


def _clear(target: Directory, *, overwrite: bool) -> None:
    """Make room: of what is there, remove only what an earlier or interrupted run wrote, the manifest first."""
    if target.exists("manifest.json"):
        if not overwrite:
            raise DatasetError(target.uri, "holds a dataset already: choose another output or set `overwrite`")
        (target / "manifest.json").delete()
    for name in _PARTS:
        (target / name).delete()


def _prepare(
    config: PrepareConfig, fragments: Sequence[Fragment], times: Times, target: Directory, advance: Advance
) -> DatasetManifest:
    counts = ItemCounts()
    batches = _read(config, fragments, times, counts, advance)
    rejected = check_rejected(config, batches)
    num_read = counts.total().num_rows
    if not num_read:
        raise no_events(config, batches)
    grouped = _group(config, batches, counts, advance)
    counted = counts.total()
    counted = counted.filter(pc.greater(counted["count"], 0))
    items = counted.filter(pc.greater_equal(counted["count"], config.min_item_events))
    users = _filter(config, batches, items["item"].to_numpy(), advance)
    steps = filter_steps(config, batches, grouped, users, (num_read, counted.num_rows, items.num_rows))
    if not len(pc.list_flatten(users["users"])):
        raise nothing_left(config, steps)
    splits, train_counts = _split(config, users, advance)
    write_values(target, splits)
    catalog = catalog_items(config, items)
    item_features, num_bad = _write_items(config, target, catalog, train_counts)
    user_features = _write_users(config, target, users)
    return DatasetManifest(
        id_type=config.id_type,
        num_buckets=config.num_buckets,
        num_users=_per_split(splits["num_users"]),
        num_events=_per_split(splits["num_events"]),
        num_items=items.num_rows,
        first_ms=pc.min(users["first_ms"]).as_py(),
        last_ms=pc.max(users["last_ms"]).as_py(),
        item_features=item_features.infos,
        item_columns=tuple(config.items.display_columns),
        profile_features=user_features.infos,
        split=_describe(config.split),
        num_rejected={reason: count for reason, (count, _) in rejected.items()},
        rejected_examples={reason: value for reason, (_, value) in rejected.items() if value},
        num_cut_users=total(grouped["num_cut_users"]),
        time_unit="order" if times.are_positions else "ms",
        steps=steps,
        event_types=config.log.event_types,
        behavior_features=config.log.behavior,
        context_features=config.log.context,
        num_duplicates=total(batches["num_events"]) - total(grouped["num_distinct"]),
        item_coverage=item_features.coverage,
        user_coverage=user_features.coverage,
        num_cold_items=catalog.num_rows - items.num_rows,
        num_bad_availability=num_bad,
    )


def _read(
    config: PrepareConfig, fragments: Sequence[Fragment], times: Times, counts: ItemCounts, advance: Advance
) -> pa.Table:
    """Stage the log and count its items; returns a row per batch."""
    parts, batches = pa.Table.from_pylist([vars(part) for part in fragments]), []
    for found in _each(parts, stage_events, "read", _MOST_READ_TASKS, advance, config=config, times=times):
        counts.add(found)
        batches.append(found.drop_columns(["items", "counts", "ids"]))
    return pa.concat_tables(batches or [READ_SCHEMA.empty_table()])


def _group(config: PrepareConfig, batches: pa.Table, counts: ItemCounts, advance: Advance) -> pa.Table:
    """Stage the users, and take events of them that are not kept off the counts; returns a row per bucket."""
    buckets, grouped = pa.table({"part": np.arange(config.num_buckets)}), []
    options = {"config": config, "files": batches["file"].to_pylist()}
    for found in _each(buckets, group_buckets, "group", _num_tasks(batches), advance, **options):
        counts.add(found)
        grouped.append(found.drop_columns(["items", "counts"]))
    return pa.concat_tables(grouped)


def _filter(config: PrepareConfig, batches: pa.Table, items: Keys, advance: Advance) -> pa.Table:
    """Stage the sequences; returns a row per bucket, in order."""
    buckets = pa.table({"part": np.arange(config.num_buckets)})
    found = _each(buckets, filter_buckets, "filter", _num_tasks(batches), advance, config=config, items=items)
    return pa.concat_tables(found).sort_by("part")


def _num_tasks(batches: pa.Table) -> int:
    return 1 + total(batches["num_events"]) // _ROWS_PER_TASK


def _split(config: PrepareConfig, users: pa.Table, advance: Advance) -> tuple[pa.Table, pa.Table]:
    """Write the splits; returns a row per bucket, and the train counts as a row per item."""
    places = _places(pc.list_flatten(users["first_seen"]).to_numpy(), config.split)
    lengths = np.asarray(pc.list_value_length(users["users"]), dtype=np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    buckets = pa.table({"part": users["part"], "places": pa.ListArray.from_arrays(offsets, pa.array(places))})
    counts, splits = ItemCounts(), []
    num_tasks = 1 + total(users["num_kept_events"]) // _ROWS_PER_TASK
    for found in _each(buckets, split_buckets, "split", num_tasks, advance, config=config):
        counts.add(found)
        splits.append(found)
    return pa.concat_tables(splits), counts.total()


def _places(first_seen: Keys, split: SplitConfig) -> Keys:
    """Return each user's index into `SPLITS`, split by user."""
    order = np.argsort(first_seen).tolist()
    random.Random(split.seed).shuffle(order)
    num_train = int(len(order) * split.train_fraction)
    num_valid = int(len(order) * (split.train_fraction + split.valid_fraction)) - num_train
    places = np.full(len(order), SPLITS.index("test"), dtype=np.int64)
    places[order[:num_train]] = SPLITS.index("train")
    places[order[num_train : num_train + num_valid]] = SPLITS.index("valid")
    return places


def _write_items(
    config: PrepareConfig, target: Directory, items: pa.Table, train_counts: pa.Table
) -> tuple[Features, int]:
    """Write the catalog of `catalog_items`; returns its features, and how many items have a bad availability."""
    keys, is_cold = items["item"].to_numpy(), items[IS_COLD].to_numpy()
    counts = _aligned(train_counts, keys)
    seen = {"of_log": ~is_cold, "in_train": counts > 0}
    features = _features(config, config.items, config.log.item_column, keys, items["id"], **seen)
    available = read_availability(config, keys)
    columns = [items["item"], items["id"], counts, bags(features, len(keys))]
    table = pa.table(columns, schema=ITEM_SCHEMA).append_column(IS_COLD, items[IS_COLD])
    if features.values:
        table = table.append_column(FEATURE_VALUES, feature_values(features))
    for name, column in (features.columns | available.columns).items():
        table = table.append_column(name, column)
    target.write_table("items.parquet", table)
    return features, available.num_bad


def _write_users(config: PrepareConfig, target: Directory, users: pa.Table) -> Features:
    """Write profiles, and string ids; without either there is nothing to write."""
    keys = pc.list_flatten(users["users"])
    ids = pc.list_flatten(users["ids"]) if config.id_type == "string" else keys.cast(pa.string())
    features = _features(config, config.users, config.log.user_column, keys.to_numpy(), ids)
    if features.infos or config.id_type == "string":
        table = pa.table([keys, ids, profiles(features, len(keys))], schema=USER_SCHEMA)
        table = table.append_column(RAW_PROFILE, raw_profiles(features, len(keys)))
        target.write_table("users.parquet", table.sort_by("user_id"))
    return features


def _features(
    config: PrepareConfig,
    metadata: MetadataConfig,
    id_column: str,
    keys: Keys,
    ids: pa.ChunkedArray,
    *,
    of_log: NDArray[np.bool_] | None = None,
    in_train: NDArray[np.bool_] | None = None,
) -> Features:
    if not metadata.paths:
        return no_features()
    known = ids if of_log is None else ids.filter(pa.array(of_log))
    log_id = known[0].as_py() if len(known) else ""
    return read_features(metadata, id_column, config.id_type, keys, of_log, in_train=in_train, log_id=log_id)


def _aligned(counts: pa.Table, keys: Keys) -> Keys:
    """Return the count of each key (ascending); all counted keys are among them."""
    aligned = np.zeros(len(keys), dtype=np.int64)
    aligned[np.searchsorted(keys, counts["item"].to_numpy())] = counts["count"].to_numpy()
    return aligned


def _per_split(counts: pa.ChunkedArray) -> dict[str, int]:
    sums = np.array(counts.to_pylist()).sum(axis=0).tolist()
    return dict(zip(SPLITS, sums, strict=True))


def _describe(split: SplitConfig) -> dict[str, Any]:
    """Return what of the split's settings applies, for the manifest."""
    if split.by == "time":
        cuts = {"train_before_ms": split.train_before_ms, "valid_before_ms": split.valid_before_ms}
        return {"by": "time", **cuts}
    if split.by == "leave-one-out":
        return {"by": "leave-one-out"}
    names = ("seed", "train_fraction", "valid_fraction", "input_fraction")
    return {"by": "user", **{name: getattr(split, name) for name in names}}


def _each(
    parts: pa.Table, work: Any, stage: str, num_tasks: int, advance: Advance, **options: Any
) -> Iterator[pa.Table]:
    """Call `work` on the parts in so many Ray Data tasks, and yield its one-row tables as they come, in no order."""
    num_tasks = min(num_tasks, parts.num_rows)
    cuts = [parts.num_rows * place // num_tasks for place in range(num_tasks + 1)]
    blocks = [parts.slice(start, stop - start) for start, stop in pairwise(cuts)]
    dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", fn_kwargs=options)
    begun: set[int] = set()
    batches: Iterable[pa.Table] = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    for batch in batches:
        begun.update(batch["part"].to_pylist())
        advance(stage, len(begun), parts.num_rows)
        yield batch


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Leave out Ray Data's progress bars and log lines, and raise a task's own error as it is."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # it logs what it raises, several pages of it
    try:
        with ray.data.DataContext.current(context):
            yield
    except RayTaskError as error:
        if not isinstance(error.cause, MindDistError):
            raise
        error.cause.args = (str(error.cause).partition("\n")[0],)  # Ray Data appends advice on retries
        raise error.cause from None
    finally:
        logger.setLevel(level)
