"""What a version must show before readers are switched to it."""

from __future__ import annotations

import random

import numpy as np

from mind_dist.config import PublishConfig
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import Filter, Vectors, VectorStore, VersionInfo
from mind_dist.records import Keys

GATE_METRIC = "recall@50"
"""The metric that a version is judged by, from its own evaluation."""

_CHUNK_QUERIES = 32  # bounds the scores held at once: queries × items


class InterestSample:
    """A uniform sample of users' interests, taken from a stream of unknown length (reservoir sampling).

    Args:
        size: Users to keep.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen = 0
        self._kept: list[Vectors] = []
        self._random = random.Random(0)

    def offer(self, interests: Vectors) -> None:
        """Take a user's interests into account, [k, D]; a user without interests is left out."""
        if not len(interests):
            return
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(interests)
        elif (at := self._random.randrange(self._seen)) < self._size:
            self._kept[at] = interests

    def queries(self) -> Vectors | None:
        """Return all interests kept, [Q, D]; None when there are none."""
        return np.concatenate(self._kept) if self._kept else None


def ann_recall(
    store: VectorStore,
    model_version: str,
    queries: Vectors,
    item_keys: Keys,
    item_vectors: Vectors,
    *,
    limit: int,
    filter: Filter | None = None,
) -> float:
    """Return the share of the truly best items that the index finds, over all queries.

    A found item counts when its true score is among the `limit` best, so items of equal score may stand in for
    each other.

    Args:
        store: The index.
        model_version: The version searched.
        queries: Interests, [Q, D].
        item_keys: All its items that the filter lets through, in ascending order, [N].
        item_vectors: Their vectors, [N, D].
        limit: Items asked for.
        filter: What searches come with.
    """
    limit = min(limit, len(item_keys))
    num_found = 0
    for start in range(0, len(queries), _CHUNK_QUERIES):
        chunk = queries[start : start + _CHUNK_QUERIES]
        scores = chunk @ item_vectors.T
        worst = np.partition(scores, -limit, axis=1)[:, -limit]
        hits_of = store.search_items(model_version, chunk, limit, filter=filter)
        for row, bound, hits in zip(scores, worst, hits_of, strict=True):
            found = np.intersect1d(item_keys, hits.keys, return_indices=True)[1]
            num_found += int((row[found] >= bound - 1e-5 * max(1.0, abs(bound))).sum())
    return num_found / (limit * len(queries))


def check_recall(info: VersionInfo, previous: VersionInfo | None, config: PublishConfig) -> None:
    """Compare the recall a version was evaluated with against the least allowed and the active version's.

    Raises:
        PublishError: It is below.
    """
    recall = info.metrics.get(GATE_METRIC)
    if recall is None:
        if config.min_recall > 0:
            raise PublishError(
                f"{info.model_version} has no {GATE_METRIC}, and {config.min_recall:g} is asked for: evaluate it first"
            )
        return
    before = previous.metrics.get(GATE_METRIC, 0.0) if previous else 0.0
    least = max(config.min_recall, before * (1 - config.max_recall_drop))
    if recall < least:
        detail = f"asked for {config.min_recall:g}; the active version has {before:g}, of which"
        drop = f"{config.max_recall_drop:.0%} may be lost"
        raise PublishError(
            f"{info.model_version} has {GATE_METRIC} {recall:g}, at least {least:g} needed: {detail} {drop}"
        )
