"""Transitions: what most often came right after the newest items of a history, with nothing to tune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyarrow import compute as pc

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation.recommenders import ExactRecommender, Scores, popularity_ranks, rows_of
from mind_dist.records import BehaviorSequence, Keys

_LAST_ITEMS = 5
"""Newest items of a history whose transitions count."""


def transitions(dataset: PreparedDataset) -> ExactRecommender:
    """Recommend what most often came right after the newest items of a history in the train split.

    An item's score is the number of train events in which it directly followed one of the history's five newest
    items, each of them counted as often as it is there. Equal scores, zero among them, go by popularity.
    """
    catalog = dataset.catalog()
    followers = _Followers.count(dataset, catalog)
    tie_break = 0.5 * (1.0 - popularity_ranks(catalog) / max(1, len(catalog)))

    def score(histories: Sequence[BehaviorSequence]) -> Scores:
        scores = np.tile(tie_break, (len(histories), 1))
        for row, history in zip(scores, histories, strict=True):
            for item in rows_of(catalog.keys, history.item_keys[-_LAST_ITEMS:]):
                items, counts = followers.of(item)
                row[items] += counts
        return scores

    return ExactRecommender(catalog.keys, score)


@dataclass(frozen=True)
class _Followers:
    """How often each item directly followed each other.

    Attributes:
        starts: Where each item's followers begin, [N + 1].
        items: Catalog rows of followers, one item's after the other's.
        counts: How often each followed.
    """

    starts: Keys
    items: Keys
    counts: Keys

    @classmethod
    def count(cls, dataset: PreparedDataset, catalog: ItemCatalog) -> _Followers:
        pairs, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        for bucket in range(dataset.manifest.num_buckets):
            found = _pairs(dataset, bucket, catalog)
            pairs, places = np.unique(np.concatenate([pairs, found]), return_inverse=True)
            weights = np.concatenate([counts, np.ones(len(found), dtype=np.int64)])
            counts = np.bincount(places, weights, minlength=len(pairs)).astype(np.int64)
        before, after = np.divmod(pairs, max(1, len(catalog)))
        return cls(np.searchsorted(before, np.arange(len(catalog) + 1)), after, counts)

    def of(self, item: int) -> tuple[Keys, Keys]:
        """Return an item's followers and how often each followed."""
        among = slice(self.starts[item], self.starts[item + 1])
        return self.items[among], self.counts[among]


def _pairs(dataset: PreparedDataset, bucket: int, catalog: ItemCatalog) -> Keys:
    """Return each train pair of neighbors as `row before · N + row after`."""
    table = dataset.read_bucket("train", bucket)
    rows = catalog.rows(pc.list_flatten(table["item_ids"]).to_numpy())
    users = pc.list_parent_indices(table["item_ids"]).to_numpy()
    neighbors = (users[1:] == users[:-1]) & (rows[1:] >= 0) & (rows[:-1] >= 0)
    return np.asarray((rows[:-1] * len(catalog) + rows[1:])[neighbors])
