"""What each interest found → candidates, each item once.

By the best score (`merge`), with a budget for each interest (`merge_by_budget`), or in turn (`merge_in_turn`). By score
alone, an interest whose scores run low may give nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mind_dist.index.vector_store import Hits
from mind_dist.records import Candidate, Keys, no_keys

Merging = Literal["max", "budget", "round_robin"]
"""How interests share the candidates: the best scores win, each has a budget by its weight, or they take turns."""


def merge(hits: Sequence[Hits], limit: int | None = None, *, exclude: Collection[int] = ()) -> list[Candidate]:
    """Return each item once, with its best score and the interest that gave it, best first.

    Items of equal score come in ascending order of their keys, equal scores of an item go to its first interest.

    Args:
        hits: What each interest found.
        limit: Most candidates; None for all.
        exclude: Item keys left out.

    >>> found = [Hits(np.array([1, 2]), np.array([0.5, 0.25])), Hits(np.array([2, 3]), np.array([1.0, 0.5]))]
    >>> [(candidate.item_key, candidate.score, candidate.interest) for candidate in merge(found)]
    [(2, 1.0, 1), (1, 0.5, 0), (3, 0.5, 1)]
    """
    taken: set[int] = set(exclude)
    candidates: list[Candidate] = []
    for key, score, interest in zip(*(column.tolist() for column in _pairs(hits)), strict=True):
        if len(candidates) == limit:
            break
        if key not in taken:
            taken.add(key)
            candidates.append(Candidate(key, score, interest))
    return candidates


def _pairs(hits: Sequence[Hits]) -> tuple[Keys, NDArray[np.float32], Keys]:
    """Return keys, scores and interests of all that was found: best scores first, then smaller keys, then interests."""
    keys = np.concatenate([no_keys(), *(found.keys for found in hits)])
    scores = np.concatenate([np.empty(0, dtype=np.float32), *(found.scores for found in hits)])
    interests = np.repeat(np.arange(len(hits)), [len(found.keys) for found in hits])
    ranking = np.lexsort((interests, keys, -scores))
    return keys[ranking], scores[ranking], interests[ranking]


def split_limit(limit: int, weights: Sequence[float]) -> list[int]:
    """Split a limit over interests in proportion to their weights, by largest remainders, with at least one for each.

    An interest whose share is below one gets one, and the others split the rest in proportion. Of equal remainders
    the first interest's is rounded up. With fewer places than interests, the heaviest get one each; weights that are
    all zero count as equal.

    >>> split_limit(10, [0.5, 0.3, 0.2]), split_limit(10, [0.98, 0.01, 0.01]), split_limit(1, [0.4, 0.6])
    ([5, 3, 2], [8, 1, 1], [0, 1])
    """
    exact = [Fraction(weight) for weight in weights]
    if not any(exact):
        exact = [Fraction(1)] * len(exact)
    if limit < len(exact):
        served = _heaviest_first(exact)[:limit]
        return [int(interest in served) for interest in range(len(exact))]
    shares = _shares(limit, exact)
    budgets = [math.floor(share) for share in shares]
    remainders = [share - budget for share, budget in zip(shares, budgets, strict=True)]
    for interest in _heaviest_first(remainders)[: limit - sum(budgets)]:
        budgets[interest] += 1
    return budgets


def _shares(limit: int, weights: Sequence[Fraction]) -> list[Fraction]:
    """Return shares of at least one that are in proportion to the weights where they are above one."""
    lifted: set[int] = set()
    while True:
        heavy = sum(weight for interest, weight in enumerate(weights) if interest not in lifted)
        shares = [
            Fraction(1) if interest in lifted else (limit - len(lifted)) * weight / heavy
            for interest, weight in enumerate(weights)
        ]
        below = {interest for interest, share in enumerate(shares) if share < 1}
        if not below:
            return shares
        lifted |= below


def _heaviest_first(weights: Sequence[float | Fraction]) -> list[int]:
    """Return the interests by weight, the first of equals first."""
    return sorted(range(len(weights)), key=lambda interest: -weights[interest])


def merge_by_budget(hits: Sequence[Hits], budgets: Sequence[int], *, exclude: Collection[int] = ()) -> list[Candidate]:
    """Return each item once, at most so many from each interest, best first (after Pinterest DCM, arXiv 2506.23060).

    It is `merge` with full interests left out: of all pairs of item and interest, in the order of `merge`, a pair is
    taken when its item is not taken and its interest has budget left. So an item belongs to the interest that scores
    it best among those that still had room, and its score is that interest's. What an interest cannot fill, because
    its list has run out, goes to the best pairs that are left, whatever their interest.

    Args:
        hits: What each interest found.
        budgets: Most items of each interest; together, most candidates.
        exclude: Item keys left out.

    >>> found = [Hits(np.array([1, 2, 3]), np.array([0.9, 0.8, 0.7])), Hits(np.array([1, 3]), np.array([0.5, 0.25]))]
    >>> [(candidate.item_key, candidate.score, candidate.interest) for candidate in merge_by_budget(found, [1, 1])]
    [(1, 0.9, 0), (3, 0.25, 1)]
    """
    keys, scores, interests = (column.tolist() for column in _pairs(hits))
    taken, places, left = set(exclude), [], list(budgets)
    for place, (key, interest) in enumerate(zip(keys, interests, strict=True)):
        if left[interest] and key not in taken:
            taken.add(key)
            places.append(place)
            left[interest] -= 1
    for place, key in enumerate(keys):
        if len(places) == sum(budgets):
            break
        if key not in taken:
            taken.add(key)
            places.append(place)
    return [Candidate(keys[place], scores[place], interests[place]) for place in sorted(places)]


def merge_in_turn(
    hits: Sequence[Hits], limit: int, weights: Sequence[float], *, exclude: Collection[int] = ()
) -> list[Candidate]:
    """Return each item once, in the order in which the interests give them: in turn, each its best not yet given.

    The heaviest interest begins, the first of equals. An interest with nothing more to give is passed over. An item's
    score is that of the interest that gave it, so scores do not descend.

    Args:
        hits: What each interest found, best first.
        limit: Most candidates.
        weights: Share of the behaviors behind each interest.
        exclude: Item keys left out.

    >>> found = [Hits(np.array([1, 2]), np.array([0.9, 0.8])), Hits(np.array([1, 3]), np.array([0.5, 0.25]))]
    >>> [candidate.item_key for candidate in merge_in_turn(found, 3, [0.4, 0.6])]
    [1, 2, 3]
    """
    given = set(exclude)
    turns = [_fresh(hits[interest], interest, given) for interest in _heaviest_first(weights)]
    candidates: list[Candidate] = []
    while turns and len(candidates) < limit:
        giver = turns.pop(0)
        candidate = next(giver, None)
        if candidate is not None:
            given.add(candidate.item_key)
            candidates.append(candidate)
            turns.append(giver)
    return candidates


def _fresh(found: Hits, interest: int, given: Collection[int]) -> Iterator[Candidate]:
    """Yield what an interest found, but for what is given by the time it is asked."""
    for key, score in zip(found.keys.tolist(), found.scores.tolist(), strict=True):
        if key not in given:
            yield Candidate(key, score, interest)
