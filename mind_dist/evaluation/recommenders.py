"""Histories → ranked items: the model by exact search, and baselines without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.data.parquet import ItemCatalog, PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.availability import Moments
from mind_dist.records import BehaviorSequence, Keys

Scores = NDArray[np.float32] | NDArray[np.float64]

_MOST_SCORES = 1 << 24
"""Scores held at once."""

_LAST_ITEMS = 5
"""Newest items of a history whose transitions count."""


class Recommender(Protocol):
    """Whatever ranks items for histories."""

    def recommend(
        self, histories: Sequence[BehaviorSequence], limit: int, *, exclude_seen: bool, at: Moments | None = None
    ) -> list[Keys]:
        """Return for each history at most `limit` distinct items, best first.

        Args:
            histories: What is known of each user.
            limit: Most items.
            exclude_seen: Leave out a history's own items.
            at: Leave out what could not be recommended at its moment; None for nothing.
        """
        ...


@dataclass(frozen=True)
class ExactRecommender:
    """Scores every item for every history and takes the best.

    Attributes:
        item_keys: The items, [N], ascending.
        score: Histories → scores [n, N]; an item of −inf is not recommended.
    """

    item_keys: Keys
    score: Callable[[Sequence[BehaviorSequence]], Scores]

    def recommend(
        self, histories: Sequence[BehaviorSequence], limit: int, *, exclude_seen: bool, at: Moments | None = None
    ) -> list[Keys]:
        """Return for each history the `limit` items of the best scores; of equal ones any, but always the same."""
        size = max(1, _MOST_SCORES // max(1, len(self.item_keys)))
        chunks = (slice(start, start + size) for start in range(0, len(histories), size))
        return [ranked for chunk in chunks for ranked in self._recommend(histories, chunk, limit, exclude_seen, at)]

    def _recommend(
        self,
        histories: Sequence[BehaviorSequence],
        chunk: slice,
        limit: int,
        exclude_seen: bool,
        at: Moments | None,
    ) -> Iterator[Keys]:
        scores = self.score(histories[chunk])
        if at is not None:
            for row, available in zip(scores, at.masks(self.item_keys, chunk), strict=True):
                row[~available] = -np.inf
        if exclude_seen:
            for row, history in zip(scores, histories[chunk], strict=True):
                row[_rows(self.item_keys, history.item_keys)] = -np.inf
        for row, places in zip(scores, best_places(scores, limit), strict=True):
            yield self.item_keys[places[row[places] > -np.inf]]


def best_places(scores: Scores, limit: int) -> Keys:
    """Return the places of the largest scores of each row, best first, [n, min(limit, N)]."""
    limit = min(limit, scores.shape[1])
    unordered = (
        np.argpartition(np.negative(scores), limit - 1, axis=1)[:, :limit] if limit else np.empty((len(scores), 0), int)
    )
    order = np.argsort(np.negative(np.take_along_axis(scores, unordered, axis=1)), axis=1, kind="stable")
    return np.take_along_axis(unordered, order, axis=1)


def _rows(item_keys: Keys, keys: Keys) -> Keys:
    """Return the rows of those keys that are items."""
    if not len(item_keys):
        return np.empty(0, dtype=np.int64)
    rows = np.minimum(np.searchsorted(item_keys, keys), len(item_keys) - 1)
    return np.asarray(rows[item_keys[rows] == keys])


def of_model(encoder: InterestEncoder) -> ExactRecommender:
    """Recommend by a model: an item scores by the best of the user's interests; no interests, no items."""
    items = encoder.item_vectors

    def score(histories: Sequence[BehaviorSequence]) -> Scores:
        scores = np.full((len(histories), len(items)), -np.inf, dtype=np.float32)
        for row, user in zip(scores, encoder.encode(histories), strict=True):
            if len(user.vectors):
                np.max(user.vectors @ items.T, axis=0, out=row)
        return scores

    return ExactRecommender(encoder.item_keys, score)


def popularity(catalog: ItemCatalog) -> ExactRecommender:
    """Recommend everyone the items with most train events; of equally many the one of the smaller key first."""
    ranks = popularity_ranks(catalog)
    return ExactRecommender(catalog.keys, lambda histories: np.tile(-ranks, (len(histories), 1)))


def popularity_ranks(catalog: ItemCatalog) -> NDArray[np.float64]:
    """Return each item's place by its train events, 0 for the most popular, [N]."""
    ranks = np.empty(len(catalog), dtype=np.float64)
    ranks[np.argsort(-catalog.counts, kind="stable")] = np.arange(len(catalog))
    return ranks


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
            for item in _rows(catalog.keys, history.item_keys[-_LAST_ITEMS:]):
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
