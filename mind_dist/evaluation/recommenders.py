"""Histories → ranked items: what evaluation measures, and the model by exact search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.availability import Moments
from mind_dist.records import BehaviorSequence, Keys

Scores = NDArray[np.float32] | NDArray[np.float64]

_MOST_SCORES = 1 << 24
"""Scores held at once."""


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
                row[rows_of(self.item_keys, history.item_keys)] = -np.inf
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


def rows_of(item_keys: Keys, keys: Keys) -> Keys:
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
    scores = -popularity_ranks(catalog).astype(np.float64)
    return ExactRecommender(catalog.keys, lambda histories: np.tile(scores, (len(histories), 1)))


def popularity_ranks(catalog: ItemCatalog) -> Keys:
    """Return each item's place by its train events, 0 for the most popular, [N]."""
    ranks = np.empty(len(catalog), dtype=np.int64)
    ranks[np.argsort(-catalog.counts, kind="stable")] = np.arange(len(catalog))
    return ranks
