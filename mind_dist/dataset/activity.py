"""Sequences → when each item had how many events: what evaluation by time ranks recent popularity by.

The splits alone do not have it: by time, a user without events on both sides of a cut is in neither valid nor test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.records import Keys

ACTIVITY = "activity"
"""Where a dataset has it, one file a bucket."""

SLOT_MS = 600_000
"""Events are counted by ten minutes of time."""


@dataclass(frozen=True)
class Activity:
    """How many events of all users each item had in each ten minutes, in order of time.

    Attributes:
        slots: Ten minutes since the epoch, ascending, [n].
        item_keys: Items, [n].
        counts: Their events then, [n].
        first_ms: The first of these, [n].
    """

    slots: Keys
    item_keys: Keys
    counts: Keys
    first_ms: Keys

    def first_seen_ms(self, item_keys: Keys) -> Keys:
        """Return the time of each item's first event; 0 for an item without one.

        >>> activity = Activity(np.array([0, 1]), np.array([7, 7]), np.array([1, 2]), np.array([5, 600_000]))
        >>> activity.first_seen_ms(np.array([7, 8])).tolist()
        [5, 0]
        """
        distinct, first = np.unique(self.item_keys, return_index=True)  # the first is the oldest
        if not len(distinct):
            return np.zeros(len(item_keys), dtype=np.int64)
        at = np.minimum(np.searchsorted(distinct, item_keys), len(distinct) - 1)
        return np.where(distinct[at] == item_keys, self.first_ms[first[at]], 0)


def activity_of(sequences: pa.Table) -> pa.Table:
    """Return the activity of some users' sequences: `slot`, `item_id`, `count`, `first_ms`."""
    items, times = (pc.list_flatten(sequences[name]) for name in ("item_ids", "timestamps_ms"))
    slots = np.floor_divide(times.to_numpy(), SLOT_MS)
    ones = pa.array(np.ones(len(slots), dtype=np.int64))
    return _summed(pa.table({"slot": pa.array(slots), "item_id": items, "count": ones, "first_ms": times}))


def _summed(table: pa.Table) -> pa.Table:
    grouped = table.group_by(["slot", "item_id"], use_threads=False)
    total = grouped.aggregate([("count", "sum"), ("first_ms", "min")])
    named = total.rename_columns(["slot", "item_id", "count", "first_ms"])
    return named.sort_by([("slot", "ascending"), ("item_id", "ascending")])


def read_activity(dataset: PreparedDataset) -> Activity:
    """Return the activity of a dataset split by time.

    Raises:
        DatasetError: It is missing, as in datasets of earlier releases, or torn.
    """
    names = [f"{ACTIVITY}/bucket-{bucket:05d}.parquet" for bucket in range(dataset.manifest.num_buckets)]
    try:
        table = _summed(pa.concat_tables([dataset.directory.read_table(name) for name in names]))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError((dataset.directory / ACTIVITY).uri, f"missing or torn: {error}; prepare it again") from error
    return _activity(table)


def train_activity(dataset: PreparedDataset) -> Activity:
    """Return the activity of the train users alone, of any dataset.

    Raises:
        DatasetError: A file is missing or torn.
    """
    buckets = range(dataset.manifest.num_buckets)
    return _activity(_summed(pa.concat_tables([activity_of(dataset.read_bucket("train", each)) for each in buckets])))


def _activity(table: pa.Table) -> Activity:
    return Activity(*(table[name].to_numpy() for name in ("slot", "item_id", "count", "first_ms")))
