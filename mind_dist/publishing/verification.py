"""What a version must show before readers are switched to it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from mind_dist.config import PublishConfig
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import Filter, Vectors, VectorStore, VersionInfo
from mind_dist.records import Keys
from mind_dist.retrieval.recall import found_share

GATE_METRIC = "recall@50"
"""The metric that a version is judged by, from its own evaluation."""

_CHUNK_QUERIES = 32  # bounds the scores held at once


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
    """Return the share of the truly best items that the index finds, over all queries (`found_share`).

    Args:
        store: The index.
        model_version: The version searched.
        queries: Interests, [Q, D].
        item_keys: All its items that the filter lets through, in ascending order, [N].
        item_vectors: Their vectors, [N, D].
        limit: Items asked for.
        filter: What searches come with.
    """
    num_found = 0.0
    for start in range(0, len(queries), _CHUNK_QUERIES):
        chunk = queries[start : start + _CHUNK_QUERIES]
        hits = store.search_items(model_version, chunk, min(limit, len(item_keys)), filter=filter)
        num_found += len(chunk) * found_share(chunk, hits, item_keys, item_vectors, limit)
    return num_found / len(queries)


def skew_recall(pairs: Sequence[tuple[Vectors, Vectors]], item_vectors: Vectors, *, limit: int) -> float | None:
    """Return how much of what users are to get they would get if versions were mixed.

    That is the share of the `limit` items best for a user's interests which the user's interests of another version
    find among the same items, exactly: 1 would say that versions may be mixed.

    Args:
        pairs: Each user's interests in the version of the items and in the other one, [k, D] each.
        item_vectors: Items of the one version, [N, D].
        limit: Items of a user.

    Returns:
        None where there is nobody with interests in both.
    """
    limit = min(limit, len(item_vectors))
    shares = []
    for own, other in pairs:
        if len(own) and len(other):
            best, found = (_best_of_any(interests, item_vectors, limit) for interests in (own, other))
            shares.append(len(np.intersect1d(best, found)) / limit)
    return float(np.mean(shares)) if shares else None


def _best_of_any(interests: Vectors, item_vectors: Vectors, limit: int) -> Keys:
    """Return the rows of the items with the best scores, each item's being that of its best interest."""
    scores = (interests @ item_vectors.T).max(axis=0)
    return np.asarray(np.argpartition(-scores, limit - 1)[:limit], dtype=np.int64)


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
