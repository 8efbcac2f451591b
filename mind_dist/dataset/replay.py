"""Prepared dataset or raw log → its events in time order, at a chosen pace: what `jobs/replay` puts into Kafka.

A replay is a table with the columns `user_id` and `item_id` (outside ids), `timestamp_ms` and `event_type`, and behind these
one for each name of the context. It is held in memory: some 28 bytes an event with integer ids and no context.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import LogConfig
from mind_dist.dataset.cleaning import clean
from mind_dist.dataset.event_values import values_column
from mind_dist.dataset.parquet import SEQUENCE_SCHEMA, PreparedDataset, Split
from mind_dist.dataset.raw_log import list_fragments, log_columns, plain, read_fragment
from mind_dist.dataset.times import times_of
from mind_dist.keys import DEFAULT_TYPE, IdType
from mind_dist.records import BehaviorSequence, Keys

Part = Literal["all", "tail", "inputs"]
"""All behaviors; the tail, which evaluation holds out of the valid and test users' histories; or the inputs: all but that."""

_ROWS_AT_A_TIME = 10_000

_COLUMNS = ["user_id", "item_id", "timestamp_ms", "event_type"]

_NEWEST_FIRST: tuple[Split, ...] = ("test", "valid", "train")


def dataset_events(dataset: PreparedDataset, part: Part) -> pa.Table:
    """Return the events of a prepared dataset in time order, under their outside ids.

    Where a dataset does not keep the type of each event, all have the first of the types that it was made of: one that
    its model versions take as a behavior.

    Raises:
        DatasetError: A file is missing or torn.
    """
    return _outside(dataset, pa.concat_tables(_tails(dataset) if part == "tail" else _whole(dataset, part)))


def dataset_histories(dataset: PreparedDataset, part: Part) -> Iterator[pa.Table]:
    """Yield the events of a dataset's users, all of a user in one table, each user's in their order.

    Raises:
        DatasetError: A file is missing or torn.
    """
    for table in _whole(dataset, part):
        yield _outside(dataset, table, in_time_order=False)


def _outside(dataset: PreparedDataset, events: pa.Table, *, in_time_order: bool = True) -> pa.Table:
    columns = {
        "user_id": _outside_ids(dataset, "users.parquet", "user_id", events["user_id"].to_numpy()),
        "item_id": _outside_ids(dataset, "items.parquet", "item_id", events["item_ids"].to_numpy()),
        "timestamp_ms": events["timestamps_ms"],
        "event_type": _types(dataset, events),
    }
    names = [name for name in _value_names(dataset) if name != "event_type"]
    told = pa.table(columns | {name: events[values_column(name)] for name in names})
    return _in_time_order(told) if in_time_order else told


def _types(dataset: PreparedDataset, events: pa.Table) -> pa.ChunkedArray:
    if "event_type" in _value_names(dataset):
        return events[values_column("event_type")].fill_null("").dictionary_encode()
    one = pa.array([(*dataset.manifest.event_types, DEFAULT_TYPE)[0]]).dictionary_encode()
    return pa.chunked_array([one.take(pa.array(np.zeros(events.num_rows, dtype=np.int64)))])


def _value_names(dataset: PreparedDataset) -> Sequence[str]:
    return list(dict.fromkeys((*dataset.features.behavior, *dataset.features.context)))


def _tails(dataset: PreparedDataset) -> Iterator[pa.Table]:
    """Yield the behaviors that evaluation holds out."""
    splits: tuple[Split, ...] = ("valid", "test")
    for split in splits:
        for bucket in range(dataset.manifest.num_buckets):
            table = dataset.read_bucket(split, bucket)
            yield _behaviors(table, _num_inputs(dataset, table, split))


def _whole(dataset: PreparedDataset, part: Part) -> Iterator[pa.Table]:
    """Yield the behaviors of each user once: one that stands in several splits has all events in the newest of them."""
    for bucket in range(dataset.manifest.num_buckets):
        seen: set[int] = set()
        tables = []
        for split in _NEWEST_FIRST:
            table = dataset.read_bucket(split, bucket)
            users, lengths = table["user_id"].to_pylist(), pc.list_value_length(table["item_ids"]).to_pylist()
            ends = _num_inputs(dataset, table, split) if part == "inputs" else lengths
            starts = [n if user in seen else 0 for user, n in zip(users, lengths, strict=True)]
            tables.append(_behaviors(table, starts, ends))
            seen.update(users)
        yield pa.concat_tables(tables)


def _num_inputs(dataset: PreparedDataset, table: pa.Table, split: Split) -> list[int]:
    users = zip(*(table[name].to_pylist() for name in SEQUENCE_SCHEMA.names), strict=True)
    sequences = (BehaviorSequence(key, np.array(items), np.array(times)) for key, items, times in users)
    return [dataset.manifest.num_inputs(sequence, split) for sequence in sequences]


def _behaviors(table: pa.Table, starts: list[int], ends: list[int] | None = None) -> pa.Table:
    """Return the behaviors of a bucket, a row each: those of each user from a place on, and up to another."""
    lengths = np.asarray(pc.list_value_length(table["item_ids"]), dtype=np.int64)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    up_to = lengths if ends is None else np.array(ends, dtype=np.int64)
    is_kept = (within >= np.repeat(np.array(starts, dtype=np.int64), lengths)) & (within < np.repeat(up_to, lengths))
    kept = pa.array(is_kept)
    columns = {name: pc.list_flatten(table[name]) for name in table.column_names if name != "user_id"}
    return pa.table({"user_id": np.repeat(table["user_id"].to_numpy(), lengths), **columns}).filter(kept)


def _outside_ids(dataset: PreparedDataset, file: str, column: str, keys: Keys) -> pa.Array:
    """Return the ids that keys had outside: an integer is its own, a string stands in the dataset."""
    if dataset.manifest.id_type == "int64":
        return pa.array(keys)
    table = dataset.directory.read_table(file, columns=[column, "original_id"])  # in ascending order of the key
    rows = np.searchsorted(table[column].to_numpy(), keys)
    return table["original_id"].combine_chunks().take(pa.array(rows))


def log_events(log: LogConfig, id_type: IdType) -> tuple[pa.Table, int]:
    """Return the events of a raw log that preparing would take, in time order, and how many rows were unusable.

    They have the types of the log's own column, `click` where it has none.

    Raises:
        ConfigError: The unit of the times cannot be told.
        DatasetError: A path is missing, or a file is torn or lacks a column.
    """
    fragments, kept, num_rejected = list_fragments(log), [], 0
    names = [name for name in log.value_names if name != "event_type"]
    times = times_of(log, fragments, int(time.time() * 1000))
    for fragment in fragments:
        for batch in read_fragment(log, fragment, log_columns(log)):
            events, rejected = clean(batch, log, id_type, times, fragment.uri)
            types = _event_types(batch.table, events["row"])
            told = events.select(["user", "item", "timestamp_ms"]).append_column("event_type", types)
            for name in names:
                told = told.append_column(name, events[values_column(name)])
            kept.append(told)
            num_rejected += rejected.num_rows
    events = pa.concat_tables(kept).rename_columns([*_COLUMNS, *names]).unify_dictionaries()
    return _in_time_order(events), num_rejected


def _event_types(raw: pa.Table, rows: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return the event types of some rows of a raw log."""
    if "event_type" not in raw.column_names:
        types = pa.nulls(len(rows), pa.string())
    else:
        types = plain(raw["event_type"].combine_chunks()).cast(pa.string()).take(rows.combine_chunks())
    return types.fill_null(DEFAULT_TYPE).dictionary_encode()


def _in_time_order(events: pa.Table) -> pa.Table:
    """Sort by time; among equal times the order stands."""
    return events.take(pa.array(np.argsort(events["timestamp_ms"].to_numpy(), kind="stable")))


def rows(events: pa.Table) -> Iterator[tuple[Any, Any, int, str, dict[str, str]]]:
    """Yield user id, item id, time, type and context of each event."""
    names = events.column_names[len(_COLUMNS) :]
    for batch in events.to_batches(max_chunksize=_ROWS_AT_A_TIME):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            values = zip(names, row[len(_COLUMNS) :], strict=True)
            yield (*row[: len(_COLUMNS)], {name: value for name, value in values if value is not None})


def due_s(events: pa.Table, *, rate: float, speed_up: float) -> NDArray[np.float64]:
    """Return when each event is due, in seconds after the start.

    Args:
        events: A replay.
        rate: Events a second; 0 leaves it to `speed_up`.
        speed_up: How many times faster than it happened; 0 for as fast as possible.
    """
    if rate:
        return np.arange(events.num_rows) / rate
    if speed_up and events.num_rows:
        since_first = pc.subtract(events["timestamp_ms"], events["timestamp_ms"][0])
        return np.asarray(since_first.to_numpy() / (1000 * speed_up))
    return np.zeros(events.num_rows)


def pace(
    due: Iterable[float],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Yield 0, 1, 2, … each when it is due; late ones at once, so the pace is kept on the whole.

    >>> list(pace([0.0, 0.0]))
    [0, 1]
    """
    start_s = clock()
    for number, due_s in enumerate(due):
        ahead_s = start_s + due_s - clock()
        if ahead_s > 0:
            sleep(ahead_s)
        yield number
