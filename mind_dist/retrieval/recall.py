"""What an index found → how much of the truth that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mind_dist.index.vector_store import Hits, Vectors
from mind_dist.records import Keys

_CHUNK_ITEMS = 100_000  # bounds the scores held at once


def found_share(queries: Vectors, hits: Sequence[Hits], keys: Keys, vectors: Vectors, limit: int) -> float:
    """Return the share of the truly best items that an index found, over all queries.

    A found item counts when its true score is among the `limit` best, so items of equal score may stand in for
    each other.

    Args:
        queries: What was searched with, [Q, D].
        hits: What each query found.
        keys: All items, ascending, [N].
        vectors: Their vectors, [N, D].
        limit: Items asked for.
    """
    limit = min(limit, len(keys))
    if not limit or not len(queries):
        return 1.0
    worst = _worst_of_best(queries, vectors, limit)
    num_found = 0
    for query, bound, found in zip(queries, worst, hits, strict=True):
        at = np.minimum(np.searchsorted(keys, found.keys), len(keys) - 1)
        scores = vectors[at[keys[at] == found.keys]] @ query
        num_found += int((scores >= bound - 1e-5 * max(1.0, abs(bound))).sum())
    return num_found / (limit * len(queries))


def _worst_of_best(queries: Vectors, vectors: Vectors, limit: int) -> Vectors:
    """Return the score of the last of the `limit` best items of each query, [Q]."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), _CHUNK_ITEMS):
        best = np.hstack([best, queries @ vectors[start : start + _CHUNK_ITEMS].T])
        if best.shape[1] > limit:
            best = np.partition(best, -limit, axis=1)[:, -limit:]
    return np.asarray(best.min(axis=1), dtype=np.float32)
