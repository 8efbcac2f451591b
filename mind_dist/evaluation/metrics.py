"""Ranked items and targets → numbers, one user at a time; ComiRec's (arXiv 2005.09347), with NDCG as it is defined.

`ranked` has each item once, best first. `targets` are what the user did next, repeats included. An item found counts
once however often it stands among the targets; recall divides by all of them, so a repeat is a miss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mind_dist.records import Keys


def recall(ranked: Keys, targets: Keys) -> float:
    """Return the distinct targets found over the number of targets.

    >>> recall(np.array([7, 8, 9]), np.array([9, 9, 5, 7]))
    0.5
    """
    return float(np.isin(ranked, targets).sum() / len(targets))


def hit_rate(ranked: Keys, targets: Keys) -> float:
    """Return 1 when any target was found, else 0."""
    return float(np.isin(ranked, targets).any())


def ndcg(ranked: Keys, targets: Keys, limit: int) -> float:
    """Return the discounted gain of the found targets over that of the best ranking of `limit` items."""
    found = np.isin(ranked[:limit], targets)
    ideal = min(limit, len(np.unique(targets)))
    discounts = 1.0 / np.log2(np.arange(2, limit + 2))
    return float(discounts[: len(found)][found].sum() / discounts[:ideal].sum())


def diversity(categories: NDArray[np.bool_]) -> float:
    """Return the share of a list's pairs that have no category in common.

    With one category an item this is ComiRec's diversity.

    Args:
        categories: Which categories each item of the list has, [n, C].
    """
    num_items = len(categories)
    if num_items < 2:  # noqa: PLR2004 - a pair
        return 0.0
    indicators = categories.astype(np.float32)
    shared = np.triu(indicators @ indicators.T > 0, k=1)
    return float(1.0 - shared.sum() / (num_items * (num_items - 1) / 2))


def category_coverage(listed: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Return the share of the targets' categories that a list has: |C(list) ∩ C(targets)| / |C(targets)|.

    Args:
        listed: Which categories each item of the list has, [n, C].
        wanted: Which categories each target has, [m, C]; at least one.

    >>> category_coverage(np.array([[True, False, True]]), np.array([[True, True, False], [True, False, False]]))
    0.5
    """
    of_targets = wanted.any(axis=0)
    return float((listed.any(axis=0) & of_targets).sum() / of_targets.sum())


def mean_pairwise_cosine(vectors: NDArray[np.float32]) -> float:
    """Return the mean cosine between the distinct pairs of at least two vectors, [k, D]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    upper = np.triu_indices(len(vectors), k=1)
    return float((unit @ unit.T)[upper].mean())
