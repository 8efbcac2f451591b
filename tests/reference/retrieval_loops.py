"""Slow, obvious twins of merging: every pair of item and interest, looked through again for each place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

from mind_dist.records import Candidate

Pairs = Sequence[Candidate]
"""Every item that an interest knows of, with that interest's score: an item is there once for each interest."""


def budgets(limit: int, weights: Sequence[float]) -> list[int]:
    """Split a limit: lift shares below one, one at a time, then hand out places to whoever lacks most."""
    if sum(weights) == 0:
        weights = [1.0] * len(weights)
    shares = [Fraction(0)] * len(weights)
    rest = list(range(len(weights)))
    while rest:
        places, total = limit - (len(weights) - len(rest)), sum(Fraction(weights[k]) for k in rest)
        for k in rest:
            shares[k] = places * Fraction(weights[k]) / total
        smallest = min(rest, key=lambda k: shares[k])
        if shares[smallest] >= 1:
            break
        shares[smallest] = Fraction(1)
        rest.remove(smallest)
        if places <= 1:
            break
    if limit < len(weights):
        heaviest = sorted(range(len(weights)), key=lambda k: -weights[k])[:limit]
        return [int(k in heaviest) for k in range(len(weights))]
    given = [0] * len(weights)
    for _ in range(limit):
        lacks = [share - count for share, count in zip(shares, given, strict=True)]
        given[lacks.index(max(lacks))] += 1
    return given


def by_budget(pairs: Pairs, budget: Sequence[int], exclude: Collection[int] = ()) -> list[Candidate]:
    """Choose the best pair of an open interest and a free item, again and again; then the best of what is left."""
    chosen: list[Candidate] = []
    for only_open in (True, False):
        while len(chosen) < sum(budget):
            gone = {c.item_key for c in chosen} | set(exclude)
            used = [sum(c.interest == k for c in chosen) for k in range(len(budget))]
            free = [
                pair
                for pair in pairs
                if pair.item_key not in gone and (not only_open or used[pair.interest] < budget[pair.interest])
            ]
            if not free:
                break
            chosen.append(min(free, key=_rank))
    return sorted(chosen, key=_rank)


def in_turn(pairs: Pairs, limit: int, weights: Sequence[float], exclude: Collection[int] = ()) -> list[Candidate]:
    """Go round the interests, heaviest first, until none has an item to give."""
    order = sorted(range(len(weights)), key=lambda k: (-weights[k], k))
    chosen: list[Candidate] = []
    for _ in range(limit):
        for k in order:
            gone = {c.item_key for c in chosen} | set(exclude)
            free = [pair for pair in pairs if pair.interest == k and pair.item_key not in gone]
            if free:
                chosen.append(min(free, key=_rank))
    return chosen[:limit]


def _rank(candidate: Candidate) -> tuple[float, int, int]:
    return -candidate.score, candidate.item_key, candidate.interest


def diversified(
    candidates: Sequence[Candidate], categories: Sequence[Collection[str]], limit: int, weight: float
) -> list[Candidate]:
    """Choose the candidate with the best score and most unlike ones chosen before, again and again."""
    shared = {name for name in set().union(*categories) if all(name in each for each in categories)}
    chosen: list[int] = []

    def value(place: int) -> float:
        own = set(categories[place]) - shared
        return candidates[place].score + weight * sum(not own & set(categories[other]) for other in chosen)

    while len(chosen) < min(limit, len(candidates)):
        left = [place for place in range(len(candidates)) if place not in chosen]
        chosen.append(max(left, key=lambda place: (value(place), -place)))
    return [candidates[place] for place in chosen]
