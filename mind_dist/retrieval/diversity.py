"""Candidates → fewer, of more categories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mind_dist.records import Candidate


def aggregate(
    candidates: Sequence[Candidate], categories: Sequence[Iterable[Any]], limit: int, diversity_weight: float
) -> list[Candidate]:
    """Choose candidates for score and diversity, greedily (ComiRec, arXiv 2005.09347, Algorithm 1).

    The next chosen is the one with the largest score + diversity_weight · Σ g over those chosen before, where
    g = 1 for two items without a common category; the first of equals. An item of no category is unlike all others. What
    all candidates have in common, as the root of a catalog's tree, tells none apart and is passed over.

    Candidates of the same categories are unlike the same others, so of each such kind only its best one left is looked
    at: a choice costs as many steps as there are kinds, not candidates times categories.

    Args:
        candidates: What to choose from, best first.
        categories: The categories of each.
        limit: How many to choose at most.
        diversity_weight: λ of the paper; 0 leaves the order as it is.

    >>> pool = [Candidate(1, 0.9, 0), Candidate(2, 0.8, 0), Candidate(3, 0.7, 1)]
    >>> [chosen.item_key for chosen in aggregate(pool, [["war"], ["war"], ["comedy"]], 2, diversity_weight=0.2)]
    [1, 3]
    """
    kinds = _Kinds(categories)
    places = [iter(members) for members in kinds.members]
    best = np.array([next(each) for each in places], dtype=np.int64)
    scores = np.array([candidates[place].score for place in best], dtype=np.float64)
    num_unlike = np.zeros(len(best), dtype=np.int64)
    chosen: list[Candidate] = []
    for _ in range(min(limit, len(candidates))):
        value = scores + diversity_weight * num_unlike
        equals = np.flatnonzero(value == value.max())
        kind = int(equals[np.argmin(best[equals])])
        chosen.append(candidates[best[kind]])
        num_unlike += kinds.unlike(kind)
        best[kind] = following = next(places[kind], len(candidates))
        scores[kind] = candidates[following].score if following < len(candidates) else -np.inf
    return chosen


class _Kinds:
    """Candidates by the set of their categories, without those that all have.

    Attributes:
        members: Places of each kind's candidates, ascending.
    """

    def __init__(self, categories: Sequence[Iterable[Any]]) -> None:
        names = [frozenset(each) for each in categories]
        shared = frozenset.intersection(*names) if names else frozenset()
        members: dict[frozenset[Any], list[int]] = {}
        for place, each in enumerate(names):
            members.setdefault(each - shared, []).append(place)
        self.members = list(members.values())
        self._categories = list(members)
        self._kinds_of: dict[Any, list[int]] = {}
        for kind, each in enumerate(self._categories):
            for name in each:
                self._kinds_of.setdefault(name, []).append(kind)

    def unlike(self, kind: int) -> NDArray[np.bool_]:
        """Tell which kinds have no category in common with one."""
        unlike = np.ones(len(self.members), dtype=np.bool_)
        for name in self._categories[kind]:
            unlike[self._kinds_of[name]] = False
        return unlike
