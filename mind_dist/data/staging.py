"""Raw log → events by user bucket → sequences → splits: the work of `mind_dist.data.prepare`'s tasks, without Ray.

Each function takes a table with one row a part (of the log, or a bucket) and yields small tables of what it found;
events travel through files: `staging/events/*.parquet`, one row group a bucket, then
`staging/distinct/bucket-*.parquet` and `staging/sequences/bucket-*.parquet`. A task that runs twice writes the same files
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import PrepareConfig, SplitConfig
from mind_dist.data.cleaning import clean, keys_of
from mind_dist.data.codec import partition_of
from mind_dist.data.parquet import SEQUENCE_SCHEMA, Split
from mind_dist.data.raw_log import Columns, Fragment, RawBatch, read_fragment
from mind_dist.records import Keys
from mind_dist.storage import Directory

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

_ORDER_BITS = 40
"""The order of an event is `part << 40 | row`."""

_KEY_LIST = pa.list_(pa.int64())

READ_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("file", pa.string()),
        ("num_events", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        ("items", _KEY_LIST),
        ("counts", _KEY_LIST),
        ("ids", pa.list_(pa.string())),
    ]
)
"""A batch of the log: the staged file, one reason per rejected row, its distinct items with counts and outside ids."""

DISTINCT_SCHEMA = pa.schema(
    [("part", pa.int64()), ("num_duplicates", pa.int64()), ("items", _KEY_LIST), ("counts", _KEY_LIST)]
)
"""A bucket's dropped duplicates: how many, and how many of each item."""

GROUPED_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("users", _KEY_LIST),
        ("first_seen", _KEY_LIST),
        ("ids", pa.list_(pa.string())),
        ("first_ms", pa.int64()),
        ("last_ms", pa.int64()),
    ]
)
"""A bucket's kept users, where the log names each first, their outside ids, the times of the oldest and newest event.

Outside ids are there for the type string only: an int64 is its own."""

SPLIT_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("num_users", _KEY_LIST),
        ("num_events", _KEY_LIST),
        ("items", _KEY_LIST),
        ("counts", _KEY_LIST),
    ]
)
"""A bucket's users and events per split, and the distinct items of train with their counts."""


def log_columns(config: PrepareConfig) -> Columns:
    """Return the columns of the raw log by what they are."""
    log = config.log
    columns = {"user": log.user_column, "item": log.item_column, "timestamp": log.timestamp_column}
    return columns | ({"event_type": log.event_type_column} if log.event_type_column else {})


def stage_events(parts: pa.Table, config: PrepareConfig) -> Iterator[pa.Table]:
    """Read, clean and stage parts of the log (`index`, `uri`, `row_group`); yields `READ_SCHEMA`, a row per batch."""
    for part in parts.to_pylist():
        fragment = Fragment(**part)
        order = fragment.index << _ORDER_BITS
        for place, batch in enumerate(read_fragment(config.log, fragment, log_columns(config))):
            yield _stage_batch(batch, config, fragment, f"part-{fragment.index:05d}-{place:05d}.parquet", order)
            order += batch.table.num_rows


def _stage_batch(batch: RawBatch, config: PrepareConfig, fragment: Fragment, name: str, order: int) -> pa.Table:
    target = Directory.at(config.output)
    events, rejected = clean(batch, config.log, config.id_type, fragment.uri)
    if rejected.num_rows:
        target.write_table(f"rejected/{name}", rejected)
    users, items = keys_of(events["user"]), keys_of(events["item"])
    columns = [users, items, events["timestamp_ms"], events["row"].to_numpy() + order]
    staged = pa.table(columns, names=["user", "item", "timestamp_ms", "order"])
    if config.id_type == "string":
        staged = staged.append_column("user_id", events["user"])
    _write_by_bucket(target, f"staging/events/{name}", staged, config.num_buckets)
    distinct, first, counts = np.unique(items, return_index=True, return_counts=True)
    ids = events["item"].take(pa.array(first)).to_pylist() if config.id_type == "string" else []
    reasons = rejected["reason"].to_pylist()
    return _row(READ_SCHEMA, fragment.index, f"staging/events/{name}", events.num_rows, reasons, distinct, counts, ids)


def _row(schema: pa.Schema, *values: object) -> pa.Table:
    return pa.table([pa.array([value], kind) for value, kind in zip(values, schema.types, strict=True)], schema=schema)


def _write_by_bucket(target: Directory, name: str, events: pa.Table, num_buckets: int) -> None:
    buckets = partition_of(events["user"].to_numpy(), num_buckets)
    ordered = events.take(pa.array(np.argsort(buckets, kind="stable")))
    sizes = np.bincount(buckets, minlength=num_buckets)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, events.schema) as writer:
        for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
            writer.write_table(ordered.slice(start, size), row_group_size=max(1, size))
    target.write_bytes(name, sink.getvalue().to_pybytes())


def deduplicate_buckets(buckets: pa.Table, config: PrepareConfig, files: Sequence[str]) -> Iterator[pa.Table]:
    """Stage each bucket's (`part`) distinct events by user, time and place in the log; yields `DISTINCT_SCHEMA`.

    Of events with the same user, item and time the first of the log stays. That needs all events of a user in one
    place, so it is done by bucket, and before `group_buckets`, so that rare items and short users are judged by distinct
    events.
    """
    target = Directory.at(config.output)
    for bucket in buckets["part"].to_pylist():
        events = pa.concat_tables([_read_bucket(target, file, bucket) for file in files])
        events = events.sort_by([("user", "ascending"), ("timestamp_ms", "ascending"), ("order", "ascending")])
        duplicate = _duplicates(events)
        target.write_table(_distinct_name(bucket), events.filter(pa.array(~duplicate)))
        items, counts = np.unique(events["item"].to_numpy()[duplicate], return_counts=True)
        yield _row(DISTINCT_SCHEMA, bucket, int(duplicate.sum()), items, counts)


def _distinct_name(bucket: int) -> str:
    return f"staging/distinct/bucket-{bucket:05d}.parquet"


def _duplicates(events: pa.Table) -> NDArray[np.bool_]:
    """Tell which events, sorted by user and time and then the log, repeat an earlier one with their item."""
    users, times, items = (events[name].to_numpy() for name in ("user", "timestamp_ms", "item"))
    same_moment = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.zeros(len(users), dtype=np.bool_)
    tied[1:] |= same_moment
    tied[:-1] |= same_moment
    rows = np.flatnonzero(tied)
    moment = np.zeros(len(users), dtype=np.int64)
    moment[1:] = np.cumsum(~same_moment)
    rows = rows[np.lexsort((items[rows], moment[rows]))]  # stable: of equal events the first of the log comes first
    repeats = (moment[rows][1:] == moment[rows][:-1]) & (items[rows][1:] == items[rows][:-1])
    duplicate = np.zeros(len(users), dtype=np.bool_)
    duplicate[rows[1:][repeats]] = True
    return duplicate


def group_buckets(buckets: pa.Table, config: PrepareConfig, items: Keys) -> Iterator[pa.Table]:
    """Stage each bucket's (`part`) sequences: kept users, on kept `items` (ascending); yields `GROUPED_SCHEMA`."""
    target = Directory.at(config.output)
    for bucket in buckets["part"].to_pylist():
        events = target.read_table(_distinct_name(bucket))
        yield _group_bucket(target, bucket, events, items, config.min_user_events)


def _read_bucket(target: Directory, file: str, bucket: int) -> pa.Table:
    place = target / file
    with place.filesystem.open_input_file(place.path) as stream:
        return pq.ParquetFile(stream).read_row_group(bucket)


def _group_bucket(target: Directory, bucket: int, events: pa.Table, items: Keys, min_events: int) -> pa.Table:
    """Group events in the order of user, then time, then the log."""
    users, starts = np.unique(events["user"].to_numpy(), return_index=True)
    kept = _contains(items, events["item"].to_numpy())
    num_kept, first_seen = _sums(kept, starts), _minima(events["order"].to_numpy(), starts)
    frequent = num_kept >= min_events
    lengths = np.diff(starts, append=events.num_rows)
    remaining = events.filter(pa.array(kept & np.repeat(frequent, lengths)))
    times = remaining["timestamp_ms"]
    sequences = _sequences(users[frequent], num_kept[frequent], remaining["item"], times)
    target.write_table(f"staging/sequences/bucket-{bucket:05d}.parquet", sequences)
    with_ids = "user_id" in events.column_names
    ids = events["user_id"].take(pa.array(starts[frequent])).to_pylist() if with_ids else []
    span = (pc.min(times), pc.max(times))
    return _row(GROUPED_SCHEMA, bucket, users[frequent], first_seen[frequent], ids, *(time.as_py() for time in span))


def _contains(items: Keys, keys: Keys) -> NDArray[np.bool_]:
    if not len(items):
        return np.zeros(len(keys), dtype=np.bool_)
    return np.asarray(items[np.minimum(np.searchsorted(items, keys), len(items) - 1)] == keys)


def _sums(values: NDArray[np.bool_], starts: Keys) -> Keys:
    """Return the number of true values from each start to the next."""
    before = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(before[np.append(starts[1:], len(values))] - before[starts]) if len(starts) else starts


def _minima(values: Keys, starts: Keys) -> Keys:
    return np.asarray(np.minimum.reduceat(values, starts)) if len(starts) else starts


def _sequences(users: Keys, lengths: Keys, items: pa.ChunkedArray, times: pa.ChunkedArray) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, values.combine_chunks()) for values in (items, times)]
    return pa.table([pa.array(users), *lists], schema=SEQUENCE_SCHEMA)


def split_buckets(buckets: pa.Table, config: PrepareConfig) -> Iterator[pa.Table]:
    """Write each bucket's (`part`) train, valid and test users; yields `SPLIT_SCHEMA`.

    `places` has the split of each of the bucket's users by user, as an index into `SPLITS`.
    """
    target = Directory.at(config.output)
    for row in buckets.to_pylist():
        name = f"bucket-{row['part']:05d}.parquet"
        sequences = target.read_table(f"staging/sequences/{name}")
        by_user = config.split.by == "user"
        tables = split_by_user(sequences, row["places"]) if by_user else split_by_time(sequences, config.split)
        for split, table in zip(SPLITS, tables, strict=True):
            target.write_table(f"sequences/{split}/{name}", table)
        num_events = [len(pc.list_flatten(table["item_ids"])) for table in tables]
        items, counts = np.unique(pc.list_flatten(tables[0]["item_ids"]).to_numpy(), return_counts=True)
        yield _row(SPLIT_SCHEMA, row["part"], [table.num_rows for table in tables], num_events, items, counts)


def split_by_user(sequences: pa.Table, places: Sequence[int]) -> list[pa.Table]:
    """Return the whole sequences of each split's users."""
    return [sequences.filter(pa.array(np.array(places, dtype=np.int64) == place)) for place in range(len(SPLITS))]


def split_by_time(sequences: pa.Table, split: SplitConfig) -> list[pa.Table]:
    """Return each split's users with their events up to its end; in valid and test, those with events on both sides."""
    starts = np.asarray(pc.list_value_length(sequences["item_ids"]), dtype=np.int64)
    num_all, times = starts, pc.list_flatten(sequences["timestamps_ms"]).to_numpy()
    starts = np.cumsum(num_all) - num_all
    num_train = _sums(times < split.train_before_ms, starts)
    num_valid = _sums(times < split.valid_before_ms, starts)
    return [
        _prefixes(sequences, num_train, num_train > 0),
        _prefixes(sequences, num_valid, (num_train > 0) & (num_valid > num_train)),
        _prefixes(sequences, num_all, (num_valid > 0) & (num_all > num_valid)),
    ]


def _prefixes(sequences: pa.Table, lengths: Keys, chosen: NDArray[np.bool_]) -> pa.Table:
    """Return the first `lengths` behaviors of the chosen users."""
    whole = np.asarray(pc.list_value_length(sequences["item_ids"]), dtype=np.int64)
    within = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    rows = pa.array(within < np.repeat(np.where(chosen, lengths, 0), whole))
    users = sequences["user_id"].to_numpy()[chosen]
    items, times = (pc.list_flatten(sequences[name]).filter(rows) for name in ("item_ids", "timestamps_ms"))
    return _sequences(users, lengths[chosen], items, times)
