"""Candidates → fewer, of more categories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mind_dist.records import Candidate


def aggregate(
    candidates: Sequence[Candidate], categories: Sequence[Iterable[Any]], limit: int, diversity_weight: float
) -> list[Candidate]:
    """Choose candidates for score and diversity, greedily (ComiRec, arXiv 2005.09347, Algorithm 1).

    The next chosen is the one with the largest score + diversity_weight · Σ g over those chosen before, where
    g = 1 for two items without a common category; the first of equals. An item of no category is unlike all others. What
    all candidates have in common, as the root of a catalog's tree, tells none apart and is passed over.

    Args:
        candidates: What to choose from, best first.
        categories: The categories of each.
        limit: How many to choose at most.
        diversity_weight: λ of the paper; 0 leaves the order as it is.

    >>> pool = [Candidate(1, 0.9, 0), Candidate(2, 0.8, 0), Candidate(3, 0.7, 1)]
    >>> [chosen.item_key for chosen in aggregate(pool, [["war"], ["war"], ["comedy"]], 2, diversity_weight=0.2)]
    [1, 3]
    """
    memberships = _memberships(categories)
    value = np.array([candidate.score for candidate in candidates], dtype=np.float64)
    chosen: list[Candidate] = []
    for _ in range(min(limit, len(candidates))):
        best = int(np.argmax(value))
        chosen.append(candidates[best])
        alike = (memberships & memberships[best]).any(axis=1)
        value += diversity_weight * ~alike
        value[best] = -np.inf
    return chosen


def _memberships(categories: Sequence[Iterable[Any]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which candidate is in which category that not all are in, [candidates, categories]."""
    columns: dict[Any, int] = {}
    for names in categories:
        for name in names:
            columns.setdefault(name, len(columns))
    memberships = np.zeros((len(categories), len(columns)), dtype=np.bool_)
    for row, names in zip(memberships, categories, strict=True):
        row[[columns[name] for name in names]] = True
    return memberships[:, ~memberships.all(axis=0)]
