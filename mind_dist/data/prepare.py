"""Raw logs → prepared dataset, with Ray Data; the log may be larger than the memory of any machine.

    1 read         each part of the log: clean, reject, count items, stage the events by user bucket
    2 deduplicate  each bucket: drop exact duplicates, sort by time, stage the distinct events
    3 group        each bucket: drop rare items and then short users, stage the sequences
    4 split        each bucket: write train, valid and test
    5 describe     items.parquet, users.parquet, and at last manifest.json

The shuffle by user goes through files under the output (`mind_dist.data.staging`), not through Ray's object store: no
event stays in memory for longer than its batch, a lost task just writes its file again, and a small log does not wait
for shuffle workers to start. This process collects tables with one row an item and one row a user, never events.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from pyarrow import compute as pc
from ray.exceptions import RayTaskError

from mind_dist.config import MetadataConfig, PrepareConfig, SplitConfig
from mind_dist.data.features import Features, bags, no_features, profiles, read_features
from mind_dist.data.parquet import ITEM_SCHEMA, USER_SCHEMA, DatasetManifest, write_manifest
from mind_dist.data.raw_log import list_fragments
from mind_dist.data.staging import (
    READ_SCHEMA,
    SPLIT_SCHEMA,
    SPLITS,
    deduplicate_buckets,
    group_buckets,
    split_buckets,
    stage_events,
)
from mind_dist.errors import ConfigError, DatasetError, MindDistError
from mind_dist.records import Keys
from mind_dist.storage import Directory

_PARTS = ("staging", "rejected", "sequences", "items.parquet", "users.parquet")
"""What a dataset consists of, or did while it was written, besides its manifest."""

_ROWS_PER_TASK = 1 << 21
"""Fewer rows are quicker in one process than in several that must start first."""

_MOST_READ_TASKS = 256
_MERGE_ROWS = 1 << 20

Advance = Callable[[str, int, int], None]
"""Told a stage, how many of its parts are begun, and how many there are."""


def _silent(_stage: str, _begun: int, _total: int) -> None: ...


def prepare(config: PrepareConfig, advance: Advance = _silent) -> DatasetManifest:
    """Write a prepared dataset. Ray must be connected.

    By user, users in the order in which the log first names them are shuffled with the seed and cut by the fractions.
    By time, a train user has the events before `train_before_ms`; a valid user those before `valid_before_ms`, of
    which the ones from `train_before_ms` on are to be found; a test user all events, of which the ones from
    `valid_before_ms` on are to be found. A user is in valid or test only with events on both sides of the cut.

    Of events with the same user, item and time the first stays, before anything is counted: `min_item_events` and
    `min_user_events` count distinct events. Item counts, and so every popularity, come from train alone. Behaviors of
    equal time stay in the log's order.

    Raises:
        ConfigError: No log is named.
        DatasetError: The output holds a dataset already, a file is missing or torn, too many of the log's rows are
            unusable (`rejected/` has them), or nothing is left after filtering.
    """
    if not config.log.paths:
        raise ConfigError("log.paths", "must name at least one file or directory")
    target = Directory.at(config.output)
    _clear(target, overwrite=config.overwrite)
    with _quiet_ray_data():
        manifest = _prepare(config, target, advance)
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


def _prepare(config: PrepareConfig, target: Directory, advance: Advance) -> DatasetManifest:
    batches, found = _read(config, advance)
    found, num_duplicates = _deduplicate(config, batches, found, advance)
    items = found.filter(pc.greater_equal(found["count"], config.min_item_events))
    users = _group(config, batches, items["item"].to_numpy(), advance)
    splits, train_counts = _split(config, users, advance)
    item_features = _write_items(config, target, items, train_counts)
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
        item_columns=config.items.columns,
        profile_features=user_features.infos,
        split=_describe(config.split),
        num_rejected=_by_reason(batches),
        event_types=config.log.event_types,
        num_duplicates=num_duplicates,
    )


def _read(config: PrepareConfig, advance: Advance) -> tuple[pa.Table, pa.Table]:
    """Stage the log; returns a row per batch, and a row per item: `item` (ascending), `count`, `id`."""
    parts = pa.Table.from_pylist([vars(part) for part in list_fragments(config.log)])
    counts, batches = _Counts(), []
    for found in _each(parts, stage_events, "read", _MOST_READ_TASKS, advance, config=config):
        counts.add(found)
        batches.append(found.drop_columns(["items", "counts", "ids"]))
    read = pa.concat_tables(batches or [READ_SCHEMA.empty_table()])
    _check_rejected(config, read)
    return read, counts.total()


def _check_rejected(config: PrepareConfig, batches: pa.Table) -> None:
    reasons = _by_reason(batches)
    num_rejected = sum(reasons.values())
    num_rows = num_rejected + _num_rows(batches)
    if num_rejected > config.max_rejected_fraction * num_rows:
        detail = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        limit = f"{config.max_rejected_fraction:.2%}"
        problem = f"{num_rejected} of {num_rows} rows are unusable, above the limit of {limit}: {detail}"
        raise DatasetError(f"{config.output}/rejected", problem)


def _by_reason(batches: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(pc.list_flatten(batches["reasons"])).to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: row["values"])}


def _deduplicate(config: PrepareConfig, batches: pa.Table, found: pa.Table, advance: Advance) -> tuple[pa.Table, int]:
    """Stage the distinct events; returns the items with the counts of those, and how many events were duplicates."""
    num_rows = _num_rows(batches)
    if not num_rows:
        raise _nothing_left(config, num_rows)
    buckets = pa.table({"part": np.arange(config.num_buckets)})
    options = {"config": config, "files": batches["file"].to_pylist()}
    dropped, num_duplicates = _Counts(), 0
    for row in _each(buckets, deduplicate_buckets, "deduplicate", _num_tasks(num_rows), advance, **options):
        dropped.add(row)
        num_duplicates += pc.sum(row["num_duplicates"]).as_py()
    distinct = found["count"].to_numpy() - _aligned(dropped.total(), found["item"].to_numpy())
    return found.set_column(found.column_names.index("count"), "count", pa.array(distinct)), num_duplicates


def _group(config: PrepareConfig, batches: pa.Table, items: Keys, advance: Advance) -> pa.Table:
    """Stage the sequences; returns a row per bucket, in order."""
    num_rows = _num_rows(batches)
    buckets = pa.table({"part": np.arange(config.num_buckets)})
    found = _each(buckets, group_buckets, "group", _num_tasks(num_rows), advance, config=config, items=items)
    users = pa.concat_tables(found).sort_by("part")
    if not len(pc.list_flatten(users["users"])):
        raise _nothing_left(config, num_rows)
    return users


def _num_rows(batches: pa.Table) -> int:
    """Return how many events were read."""
    return int(pc.sum(batches["num_events"]).as_py() or 0)


def _num_tasks(num_rows: int) -> int:
    return 1 + num_rows // _ROWS_PER_TASK


def _nothing_left(config: PrepareConfig, num_rows: int) -> DatasetError:
    return DatasetError(", ".join(config.log.paths), f"nothing is left of {num_rows} events after filtering")


def _split(config: PrepareConfig, users: pa.Table, advance: Advance) -> tuple[pa.Table, pa.Table]:
    """Write the splits; returns a row per bucket, and the train counts as a row per item."""
    places = _places(pc.list_flatten(users["first_seen"]).to_numpy(), config.split)
    lengths = np.asarray(pc.list_value_length(users["users"]), dtype=np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    buckets = pa.table({"part": users["part"], "places": pa.ListArray.from_arrays(offsets, pa.array(places))})
    counts, splits = _Counts(), []
    num_tasks = _num_tasks(len(places) * config.min_user_events)
    for found in _each(buckets, split_buckets, "split", num_tasks, advance, config=config):
        counts.add(found)
        splits.append(found)
    return pa.concat_tables(splits or [SPLIT_SCHEMA.empty_table()]), counts.total()


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


def _write_items(config: PrepareConfig, target: Directory, items: pa.Table, train_counts: pa.Table) -> Features:
    keys = items["item"].to_numpy()
    features = _features(config, config.items, config.log.item_column, keys)
    ids = items["id"] if config.id_type == "string" else items["item"].cast(pa.string())
    columns = [items["item"], ids, _aligned(train_counts, keys), bags(features, len(keys))]
    table = pa.table(columns, schema=ITEM_SCHEMA)
    for name, column in features.columns.items():
        table = table.append_column(name, column)
    target.write_table("items.parquet", table)
    return features


def _write_users(config: PrepareConfig, target: Directory, users: pa.Table) -> Features:
    """Write profiles, and string ids; without either there is nothing to write."""
    keys = pc.list_flatten(users["users"])
    features = _features(config, config.users, config.log.user_column, keys.to_numpy())
    if features.infos or config.id_type == "string":
        ids = pc.list_flatten(users["ids"]) if config.id_type == "string" else keys.cast(pa.string())
        table = pa.table([keys, ids, profiles(features, len(keys))], schema=USER_SCHEMA)
        target.write_table("users.parquet", table.sort_by("user_id"))
    return features


def _features(config: PrepareConfig, metadata: MetadataConfig, id_column: str, keys: Keys) -> Features:
    return read_features(metadata, id_column, config.id_type, keys) if metadata.paths else no_features()


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
    names = ("seed", "train_fraction", "valid_fraction", "input_fraction")
    return {"by": "user", **{name: getattr(split, name) for name in names}}


class _Counts:
    """Counts per item, added up as they come."""

    def __init__(self) -> None:
        self._parts = [self._table(pa.array([], pa.int64()), pa.array([], pa.int64()), None)]
        self._pending = 0

    def add(self, found: pa.Table) -> None:
        """Add `items` with their `counts`, and `ids` where there are any."""
        items, counts = pc.list_flatten(found["items"]), pc.list_flatten(found["counts"])
        ids = pc.list_flatten(found["ids"]) if "ids" in found.column_names else None
        self._parts.append(self._table(items, counts, ids))
        self._pending += len(items)
        if self._pending > max(_MERGE_ROWS, self._parts[0].num_rows):
            self._parts = [self.total()]
            self._pending = 0

    def total(self) -> pa.Table:
        """Return a row per item, ascending."""
        grouped = pa.concat_tables(self._parts).group_by("item", use_threads=False)
        total = grouped.aggregate([("count", "sum"), ("id", "first")])
        return total.rename_columns(["item", "count", "id"]).sort_by("item")

    @staticmethod
    def _table(items: pa.Array, counts: pa.Array, ids: pa.Array | None) -> pa.Table:
        originals = ids if ids is not None and len(ids) else pa.nulls(len(items), pa.string())
        return pa.table({"item": items, "count": counts, "id": originals})


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
