"""A prepared dataset → the train split as flat arrays: what every floor is counted from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.dataset.activity import Activity, read_activity, train_activity
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation.recommenders import popularity_ranks
from mind_dist.evaluation.task import by_time
from mind_dist.records import Keys

Rows = NDArray[np.int64]
"""Places of items in the catalog."""


@dataclass(frozen=True)
class TrainLog:
    """The events of all train users, one user's after the other's, each user's in order.

    Attributes:
        catalog: The items, N of them.
        items: The item of each event, as a row of the catalog, [E].
        times_ms: When each event was, [E].
        starts: Where each user's events begin, and E, [U + 1].
        dataset: What they were read from.
    """

    catalog: ItemCatalog
    items: Rows
    times_ms: Keys
    starts: Keys
    dataset: PreparedDataset

    @classmethod
    def read(cls, dataset: PreparedDataset) -> TrainLog:
        """Read the train split of a dataset.

        Raises:
            DatasetError: A file is missing or torn.
        """
        catalog = dataset.catalog()
        parts = [_read_bucket(dataset, bucket, catalog) for bucket in range(dataset.manifest.num_buckets)]
        items, times_ms, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(catalog, items, times_ms, np.concatenate([[0], np.cumsum(lengths)]), dataset)

    @property
    def num_users(self) -> int:
        """Train users U."""
        return len(self.starts) - 1

    @cached_property
    def users(self) -> Keys:
        """Whose each event is, counted from 0, [E]."""
        return np.repeat(np.arange(self.num_users), np.diff(self.starts))

    @cached_property
    def by_item(self) -> Keys:
        """The events in order of their items, those of an item as they are in the log, [E]."""
        return np.argsort(self.items, kind="stable")

    @property
    def has_times(self) -> bool:
        """Tell whether times are times: some logs know no more than the order of each user's events."""
        return self.dataset.manifest.time_unit == "ms"

    @cached_property
    def activity(self) -> Activity:
        """When items had events: by time those of all users, by user those of train users.

        Raises:
            DatasetError: A file is missing or torn.
        """
        return read_activity(self.dataset) if by_time(self.dataset) else train_activity(self.dataset)

    @cached_property
    def ranks(self) -> Rows:
        """The place of each item by its train events, 0 for the most popular, [N]."""
        return popularity_ranks(self.catalog)

    @cached_property
    def popular(self) -> Rows:
        """All items, the most popular first, [N]."""
        return np.argsort(self.ranks)

    @cached_property
    def counts(self) -> NDArray[np.float32]:
        """Train events of each item, at least 1, [N]."""
        return np.maximum(self.catalog.counts, 1).astype(np.float32)


def _read_bucket(dataset: PreparedDataset, bucket: int, catalog: ItemCatalog) -> tuple[Rows, Keys, Keys]:
    """Return a bucket's items and times, and how many of them each user has."""
    table = dataset.read_bucket("train", bucket)
    items = catalog.rows(pc.list_flatten(table["item_ids"]).to_numpy())
    times_ms = pc.list_flatten(table["timestamps_ms"]).to_numpy()
    users = pc.list_parent_indices(table["item_ids"]).to_numpy()
    known = items >= 0
    return items[known], times_ms[known], np.bincount(users[known], minlength=table.num_rows)
