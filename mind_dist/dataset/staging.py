"""Raw log → events by user bucket → users → sequences → splits: the work of `mind_dist.dataset.prepare`'s tasks, without Ray.

Each function takes a table with one row a part (of the log, or a bucket) and yields small tables of what it found;
events travel through files: `staging/events/*.parquet`, one row group a bucket, then `staging/users/bucket-*.parquet`
and `staging/sequences/bucket-*.parquet`. A task that runs twice writes the same files again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import PrepareConfig, SplitConfig
from mind_dist.dataset.activity import ACTIVITY, activity_of
from mind_dist.dataset.bucket_file import rows_per_block
from mind_dist.dataset.cleaning import by_reason, clean, keys_of
from mind_dist.dataset.event_values import distinct_values, values_column
from mind_dist.dataset.parquet import Split
from mind_dist.dataset.raw_log import Fragment, log_columns, read_fragment
from mind_dist.dataset.times import Times
from mind_dist.keys import partition_of
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
        ("num_rows", pa.int64()),
        ("num_events", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        ("num_rejected", _KEY_LIST),
        ("examples", pa.list_(pa.string())),
        ("items", _KEY_LIST),
        ("counts", _KEY_LIST),
        ("ids", pa.list_(pa.string())),
    ]
)
"""A batch of the log: the staged file, its rows and usable events, why rows are rejected with how many and a value, its
distinct items with counts and outside ids."""

GROUPED_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("num_users", pa.int64()),
        ("num_distinct", pa.int64()),
        ("num_events", pa.int64()),
        ("num_cut_users", pa.int64()),
        ("items", _KEY_LIST),
        ("counts", _KEY_LIST),
    ]
)
"""A bucket's users, their distinct events, those that are kept, the users whose oldest were cut, and the distinct items of
the events that are not kept with minus their counts."""

FILTERED_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("num_users", pa.int64()),
        ("num_events", pa.int64()),
        ("num_kept_events", pa.int64()),
        ("users", _KEY_LIST),
        ("first_seen", _KEY_LIST),
        ("ids", pa.list_(pa.string())),
        ("first_ms", pa.int64()),
        ("last_ms", pa.int64()),
    ]
)
"""A bucket's users with kept items, the events on these, the kept users' events; then its kept users, where the log names each first, their
outside ids, the times of the oldest and newest event.

Outside ids are there for the type string only: an int64 is its own."""

SPLIT_SCHEMA = pa.schema(
    [
        ("part", pa.int64()),
        ("num_users", _KEY_LIST),
        ("num_events", _KEY_LIST),
        ("items", _KEY_LIST),
        ("counts", _KEY_LIST),
        ("value_names", pa.list_(pa.string())),
        ("values", pa.list_(pa.string())),
    ]
)
"""A bucket's users and events per split, the distinct items of train with their counts, and the distinct values of each
feature of events in train, with its name."""


def stage_events(parts: pa.Table, config: PrepareConfig, times: Times) -> Iterator[pa.Table]:
    """Read, clean and stage parts of the log (`index`, `uri`, `row_group`); yields `READ_SCHEMA`, a row per batch."""
    for part in parts.to_pylist():
        fragment = Fragment(**part)
        order = fragment.index << _ORDER_BITS
        for place, batch in enumerate(read_fragment(config.log, fragment, log_columns(config.log))):
            events, rejected = clean(batch, config.log, config.id_type, times, fragment.uri)
            name = f"part-{fragment.index:05d}-{place:05d}.parquet"
            if rejected.num_rows:
                Directory.at(config.output).write_table(f"rejected/{name}", rejected)
            found = _stage_batch(events, config, f"staging/events/{name}", order)
            reasons = by_reason(rejected)
            numbers, examples = ([each[place] for each in reasons.values()] for place in range(2))
            num_rows = batch.table.num_rows + len(batch.malformed)
            about = (f"staging/events/{name}", num_rows, events.num_rows, list(reasons), numbers, examples)
            yield _row(READ_SCHEMA, fragment.index, *about, *found)
            order += batch.table.num_rows


def _stage_batch(events: pa.Table, config: PrepareConfig, name: str, order: int) -> tuple[Keys, Keys, list[str]]:
    """Write a batch's events; returns its distinct items, their counts, and their outside ids if those are strings."""
    users, items = keys_of(events["user"]), keys_of(events["item"])
    columns = [users, items, events["timestamp_ms"], events["row"].to_numpy() + order]
    staged = pa.table(columns, names=["user", "item", "timestamp_ms", "order"])
    for column in _value_columns(config):
        staged = staged.append_column(column, events[column])
    if config.id_type == "string":
        staged = staged.append_column("user_id", events["user"])
    _write_by_bucket(Directory.at(config.output), name, staged, config.num_buckets)
    distinct, first, counts = np.unique(items, return_index=True, return_counts=True)
    ids = events["item"].take(pa.array(first)).to_pylist() if config.id_type == "string" else []
    return distinct, counts, ids


def _row(schema: pa.Schema, *values: object) -> pa.Table:
    return pa.table([pa.array([value], kind) for value, kind in zip(values, schema.types, strict=True)], schema=schema)


def _write_by_bucket(target: Directory, name: str, events: pa.Table, num_buckets: int) -> None:
    buckets = partition_of(events["user"].to_numpy(), num_buckets)
    ordered = events.take(pa.array(np.argsort(buckets, kind="stable")))
    sizes = np.bincount(buckets, minlength=num_buckets)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, events.schema, use_dictionary=_texts_of(events)) as writer:
        for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
            writer.write_table(ordered.slice(start, size), row_group_size=max(1, size))
    target.write_bytes(name, sink.getvalue().to_pybytes(), durable=False)


def _texts_of(events: pa.Table) -> list[str]:
    return [name for name in events.column_names if pa.types.is_string(events.schema.field(name).type)]


def group_buckets(buckets: pa.Table, config: PrepareConfig, files: Sequence[str]) -> Iterator[pa.Table]:
    """Stage each bucket's (`part`) users with their newest distinct events; yields `GROUPED_SCHEMA`.

    Of events with the same user, item and time the first of the log stays. That and the bound need all events of a user
    in one place, so they are done by bucket, and before items and users are counted.
    """
    target = Directory.at(config.output)
    for bucket in buckets["part"].to_pylist():
        events = pa.concat_tables([_read_bucket(target, file, bucket) for file in files])
        events = events.sort_by([("user", "ascending"), ("timestamp_ms", "ascending"), ("order", "ascending")])
        users, *found = _group_bucket(events, config.max_user_events, _value_columns(config))
        target.write_table(_users_file(bucket), users, scratch=True)
        yield _row(GROUPED_SCHEMA, bucket, users.num_rows, *found)


def _users_file(bucket: int) -> str:
    return f"staging/users/bucket-{bucket:05d}.parquet"


def _read_bucket(target: Directory, file: str, bucket: int) -> pa.Table:
    place = target / file
    with place.filesystem.open_input_file(place.path) as stream:
        return pq.ParquetFile(stream).read_row_group(bucket)


def _group_bucket(
    events: pa.Table, max_events: int, value_columns: Sequence[str]
) -> tuple[pa.Table, int, int, int, Keys, Keys]:
    """Group events in the order of user, then time, then the log; drop duplicates, and keep each user's newest.

    Returns:
        A row per user, how many events are distinct, how many are kept, how many users are cut, the distinct items of
        the events that are not kept, and minus how often each is among them.
    """
    users, starts = np.unique(events["user"].to_numpy(), return_index=True)
    first_seen = _minima(events["order"].to_numpy(), starts)
    ids = events["user_id"].take(pa.array(starts)) if "user_id" in events.column_names else None
    kept = ~_duplicates(events)
    lengths = _sums(kept, starts)
    num_kept = np.minimum(lengths, max_events) if max_events else lengths
    kept[kept] = _newest(lengths, num_kept)
    items, counts = np.unique(events["item"].to_numpy()[~kept], return_counts=True)
    remaining = events.select(["item", "timestamp_ms", *value_columns]).filter(pa.array(kept))
    table = _sequences(users, num_kept, remaining.rename_columns(["item_ids", "timestamps_ms", *value_columns]))
    table = table.append_column("first_seen", pa.array(first_seen, pa.int64()))
    table = table.append_column("original_id", ids if ids is not None else pa.nulls(len(users), pa.string()))
    num_cut = int((lengths > num_kept).sum())
    return table, int(lengths.sum()), int(num_kept.sum()), num_cut, items, -counts


def _value_columns(config: PrepareConfig) -> list[str]:
    return [values_column(name) for name in config.log.value_names]


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


def _newest(lengths: Keys, num_kept: Keys) -> NDArray[np.bool_]:
    """Tell which events are among the last `num_kept` of their user; users have `lengths` events, one after the other."""
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(within >= np.repeat(lengths - num_kept, lengths))


def filter_buckets(buckets: pa.Table, config: PrepareConfig, items: Keys) -> Iterator[pa.Table]:
    """Stage each bucket's (`part`) sequences: kept users, on kept `items` (ascending); yields `FILTERED_SCHEMA`."""
    target = Directory.at(config.output)
    for bucket in buckets["part"].to_pylist():
        users = target.read_table(_users_file(bucket))
        yield _filter_bucket(target, bucket, users, items, config.min_user_events)


def _filter_bucket(target: Directory, bucket: int, users: pa.Table, items: Keys, min_events: int) -> pa.Table:
    lengths = np.asarray(pc.list_value_length(users["item_ids"]), dtype=np.int64)
    behaviors = _behaviors(users)
    kept = _contains(items, behaviors["item_ids"].to_numpy())
    num_kept = _sums(kept, np.cumsum(lengths) - lengths)
    frequent = num_kept >= min_events
    behaviors = behaviors.filter(pa.array(kept & np.repeat(frequent, lengths)))
    times, remaining = behaviors["timestamps_ms"], users.filter(pa.array(frequent))
    keys, first_seen = remaining["user_id"].to_numpy(), remaining["first_seen"].to_numpy()
    sequences = _sequences(keys, num_kept[frequent], behaviors)
    target.write_table(f"staging/sequences/bucket-{bucket:05d}.parquet", sequences, scratch=True)
    ids = remaining["original_id"].drop_null().to_pylist()
    numbers = (int((num_kept > 0).sum()), int(kept.sum()), len(times))
    span = (pc.min(times).as_py(), pc.max(times).as_py())
    return _row(FILTERED_SCHEMA, bucket, *numbers, keys, first_seen, ids, *span)


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


def _behaviors(sequences: pa.Table) -> pa.Table:
    """Return the behaviors of all users, one after the other: a column for each column of lists."""
    lists = [name for name in sequences.column_names if pa.types.is_list(sequences.schema.field(name).type)]
    return pa.table({name: pc.list_flatten(sequences[name]) for name in lists})


def _sequences(users: Keys, lengths: Keys, behaviors: pa.Table) -> pa.Table:
    """Return users with their lists, of so many behaviors each, one after the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    names = behaviors.column_names
    lists = {name: pa.ListArray.from_arrays(offsets, behaviors[name].combine_chunks()) for name in names}
    return pa.table({"user_id": pa.array(users, pa.int64()), **lists})


def split_buckets(buckets: pa.Table, config: PrepareConfig) -> Iterator[pa.Table]:
    """Write each bucket's (`part`) train, valid and test users, and by time its activity; yields `SPLIT_SCHEMA`.

    `places` has the split of each of the bucket's users by user, as an index into `SPLITS`.
    """
    target = Directory.at(config.output)
    for row in buckets.to_pylist():
        name = f"bucket-{row['part']:05d}.parquet"
        sequences = target.read_table(f"staging/sequences/{name}")
        tables = _splits(sequences, row["places"], config.split)
        num_events = [len(pc.list_flatten(table["item_ids"])) for table in tables]
        for split, table, count in zip(SPLITS, tables, num_events, strict=True):
            target.write_table(f"sequences/{split}/{name}", table, rows_at_once=rows_per_block(len(table), count))
        if config.split.by == "time":
            target.write_table(f"{ACTIVITY}/{name}", activity_of(sequences))
        items, counts = np.unique(pc.list_flatten(tables[0]["item_ids"]).to_numpy(), return_counts=True)
        num_users = [table.num_rows for table in tables]
        yield _row(
            SPLIT_SCHEMA,
            row["part"],
            num_users,
            num_events,
            items,
            counts,
            *distinct_values(tables[0], config.log.value_names),
        )


def _splits(sequences: pa.Table, places: Sequence[int], split: SplitConfig) -> list[pa.Table]:
    if split.by == "user":
        return split_by_user(sequences, places)
    return split_by_time(sequences, split) if split.by == "time" else leave_one_out(sequences)


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


def leave_one_out(sequences: pa.Table) -> list[pa.Table]:
    """Return everybody without the last two events, without the last, and whole; those with fewer than three in train alone."""
    lengths = np.asarray(pc.list_value_length(sequences["item_ids"]), dtype=np.int64)
    cut = lengths > len(SPLITS) - 1
    return [
        _prefixes(sequences, np.where(cut, lengths - 2, lengths), lengths > 0),
        _prefixes(sequences, lengths - 1, cut),
        _prefixes(sequences, lengths, cut),
    ]


def _prefixes(sequences: pa.Table, lengths: Keys, chosen: NDArray[np.bool_]) -> pa.Table:
    """Return the first `lengths` behaviors of the chosen users."""
    whole = np.asarray(pc.list_value_length(sequences["item_ids"]), dtype=np.int64)
    within = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    rows = pa.array(within < np.repeat(np.where(chosen, lengths, 0), whole))
    users = sequences["user_id"].to_numpy()[chosen]
    return _sequences(users, lengths[chosen], _behaviors(sequences).filter(rows))
