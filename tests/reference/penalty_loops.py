"""The regularisers in plain loops: the twins of `mind_dist.model.regularizers`, users as lists of real interests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean, pvariance

from tests.reference.mind_loops import Matrix, cosine, dot, softmax


def spread(users: Sequence[Matrix], margin: float) -> float:
    """Return the mean, over the pairs of interests of one user, of how far their cosine is above the margin, squared."""
    pairs = [pair for interests in users for pair in itertools.combinations(interests, 2)]
    return fmean(max(0.0, cosine(left, right) - margin) ** 2 for left, right in pairs) if pairs else 0.0


def balance(users: Sequence[Matrix], targets: Sequence[Matrix], most: int, temperature: float) -> float:
    """Return how far from 1/K each the shares of the targets are that each of the K interests wins."""
    won = [0.0] * most
    for interests, wanted in zip(users, targets, strict=True):
        for target in wanted:
            for interest, share in enumerate(softmax([dot(v, target) / temperature for v in interests])):
                won[interest] += share
    total = sum(len(wanted) for wanted in targets)
    return most * sum((share / total) ** 2 for share in won) - 1


def routing(couplings: Sequence[Matrix]) -> float:
    """Return the mean over users of the sum of squares of the variances; `coupling[k]` is by behavior."""
    return fmean(sum(pvariance(shares) ** 2 for shares in coupling) for coupling in couplings)
