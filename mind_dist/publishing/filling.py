"""A version's items → the index: several requests at a time, and on from where an earlier publish has come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from mind_dist.config import PublishConfig
from mind_dist.index.vector_store import ItemRows, Vectors, VectorStore
from mind_dist.records import Keys

_RANGES = 64  # counted where a publish goes on: what was under way when it failed lies in a few of them


def fill_items(
    store: VectorStore,
    model_version: str,
    items: tuple[Keys, Vectors],
    columns: Mapping[str, Sequence[Any]],
    config: PublishConfig,
    *,
    goes_on: bool,
    advance: Callable[[int], None],
) -> None:
    """Write items, `fill_threads` requests at a time.

    Args:
        store: The index.
        model_version: The version.
        items: Keys, ascending, [N], and vectors, [N, D].
        columns: Column → N values.
        config: Rows of a request, and requests at a time.
        goes_on: Some items are there already, written by a publish of this very version that failed.
        advance: Told how many are there, from this thread.

    Raises:
        ServiceUnavailable: A request failed; those under way are finished, no other is begun.
    """
    keys, vectors = items
    parts = [slice(start, start + config.batch_size) for start in range(0, len(keys), config.batch_size)]

    def write(part: slice) -> int:
        rows = ItemRows(keys[part], vectors[part], {name: values[part] for name, values in columns.items()})
        store.upsert_items(model_version, rows)
        return len(rows.keys)

    with ThreadPoolExecutor(config.fill_threads, thread_name_prefix="fill") as threads:
        missing = _missing(store, model_version, keys, parts, threads) if goes_on else parts
        done = len(keys) - sum(len(keys[part]) for part in missing)
        writing = [threads.submit(write, part) for part in missing]
        try:
            for written in as_completed(writing):
                done += written.result()
                advance(done)
        except BaseException:
            for each in writing:
                each.cancel()
            raise


def _missing(
    store: VectorStore, model_version: str, keys: Keys, parts: Sequence[slice], threads: ThreadPoolExecutor
) -> list[slice]:
    """Return the parts in ranges of keys of which the store does not count all."""
    ranges = [parts[at[0] : at[-1] + 1] for at in np.array_split(np.arange(len(parts)), _RANGES) if len(at)]

    def lacks(some: Sequence[slice]) -> bool:
        wanted = keys[some[0].start : some[-1].stop]
        return store.count_items(model_version, between=(int(wanted[0]), int(wanted[-1]))) != len(wanted)

    return [part for some, lacking in zip(ranges, threads.map(lacks, ranges), strict=True) if lacking for part in some]
