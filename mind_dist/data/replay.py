"""Prepared dataset or raw log → its events in time order, at a chosen pace: what `jobs/replay` puts into Kafka.

A replay is a table with the columns `user_id` and `item_id` (outside ids), `timestamp_ms` and `event_type`. It is held in
memory: some 28 bytes an event with integer ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import LogConfig
from mind_dist.data.cleaning import clean
from mind_dist.data.codec import IdType
from mind_dist.data.parquet import PreparedDataset, Split
from mind_dist.data.raw_log import list_fragments, log_columns, plain, read_fragment
from mind_dist.data.times import times_of
from mind_dist.records import BehaviorSequence, Keys

Part = Literal["all", "tail"]
"""All behaviors, or the tail: what evaluation holds out of the valid and test users' histories."""

_ROWS_AT_A_TIME = 10_000

_COLUMNS = ["user_id", "item_id", "timestamp_ms", "event_type"]

_DEFAULT_TYPE = "click"
"""Event type where none is known."""
_NEWEST_FIRST: tuple[Split, ...] = ("test", "valid", "train")


def dataset_events(dataset: PreparedDataset, part: Part) -> pa.Table:
    """Return the events of a prepared dataset in time order, under their outside ids.

    A dataset does not keep the type of each event, so all have the first of the types that it was made of: one that
    its model versions take as a behavior.

    Raises:
        DatasetError: A file is missing or torn.
    """
    users = list(_tails(dataset) if part == "tail" else _whole(dataset))
    user_keys = np.repeat(np.array([user.user_key for user in users], np.int64), [len(user) for user in users])
    event_type = (*dataset.manifest.event_types, _DEFAULT_TYPE)[0]
    columns = [
        _outside_ids(dataset, "users.parquet", "user_id", user_keys),
        _outside_ids(dataset, "items.parquet", "item_id", _joined([user.item_keys for user in users])),
        pa.array(_joined([user.timestamps_ms for user in users])),
        pa.array([event_type]).dictionary_encode().take(pa.array(np.zeros(len(user_keys), dtype=np.int64))),
    ]
    return _in_time_order(pa.table(columns, names=_COLUMNS))


def _tails(dataset: PreparedDataset) -> Iterator[BehaviorSequence]:
    splits: tuple[Split, ...] = ("valid", "test")
    for split in splits:
        for user in dataset.sequences(split):
            yield user.slice(dataset.manifest.num_inputs(user, split), len(user))


def _whole(dataset: PreparedDataset) -> Iterator[BehaviorSequence]:
    """Yield each user once: split by time or leave-one-out, one stands in several splits, and in the newest with all events."""
    seen: set[int] = set()
    for split in _NEWEST_FIRST:
        for user in dataset.sequences(split):
            if user.user_key not in seen:
                seen.add(user.user_key)
                yield user


def _joined(parts: list[Keys]) -> Keys:
    return np.concatenate([np.empty(0, np.int64), *parts])


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
    times = times_of(log, fragments, int(time.time() * 1000))
    for fragment in fragments:
        for batch in read_fragment(log, fragment, log_columns(log)):
            events, rejected = clean(batch, log, id_type, times, fragment.uri)
            types = _event_types(batch.table, events["row"])
            kept.append(events.select(["user", "item", "timestamp_ms"]).append_column("event_type", types))
            num_rejected += rejected.num_rows
    events = pa.concat_tables(kept).rename_columns(_COLUMNS).unify_dictionaries()
    return _in_time_order(events), num_rejected


def _event_types(raw: pa.Table, rows: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return the event types of some rows of a raw log."""
    if "event_type" not in raw.column_names:
        types = pa.nulls(len(rows), pa.string())
    else:
        types = plain(raw["event_type"].combine_chunks()).cast(pa.string()).take(rows.combine_chunks())
    return types.fill_null(_DEFAULT_TYPE).dictionary_encode()


def _in_time_order(events: pa.Table) -> pa.Table:
    """Sort by time; among equal times the order stands."""
    return events.take(pa.array(np.argsort(events["timestamp_ms"].to_numpy(), kind="stable")))


def rows(events: pa.Table) -> Iterator[tuple[Any, Any, int, str]]:
    """Yield user id, item id, time and type of each event."""
    for batch in events.to_batches(max_chunksize=_ROWS_AT_A_TIME):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


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
