"""The regularisers in plain loops: the twins of `mind_dist.model.objectives.penalties`, users as lists of real interests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean, pvariance

from tests.reference.mind_loops import Matrix, cosine, dot, softmax


def spread(users: Sequence[Matrix], margin: float) -> float:
    """Return the mean, over the pairs of interests of one user, of how far their cosine is above the margin, squared."""
    pairs = [pair for interests in users for pair in itertools.combinations(interests, 2)]
    return fmean(max(0.0, cosine(left, right) - margin) ** 2 for left, right in pairs) if pairs else 0.0


def balance(windows: Sequence[tuple[Sequence[Matrix], Sequence[Matrix]]], most: int, temperature: float) -> float:
    """Return how unevenly the K interests win targets, as the mean over the pairs of windows.

    Args:
        windows: The interests at each end of a window, and the targets there.
        most: Number K.
        temperature: Divides the scores.
    """
    shares = [_shares(ends, targets, most, temperature) for ends, targets in windows if any(targets)]
    products = [dot(left, right) for left, right in itertools.permutations(shares, 2)]
    return most * fmean(products) - 1 if products else 0.0


def _shares(ends: Sequence[Matrix], targets: Sequence[Matrix], most: int, temperature: float) -> list[float]:
    """Return the mean share of a window's targets that each interest wins."""
    won = [
        softmax([dot(v, target) / temperature for v in interests]) + [0.0] * (most - len(interests))
        for interests, wanted in zip(ends, targets, strict=True)
        for target in wanted
    ]
    return [fmean(column) for column in zip(*won, strict=True)]


def routing(couplings: Sequence[Matrix]) -> float:
    """Return the mean over users of the sum of squares of the variances; `coupling[k]` is by behavior."""
    return fmean(sum(pvariance(shares) ** 2 for shares in coupling) for coupling in couplings)
