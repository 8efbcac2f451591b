"""A model version × held-out users → how its interests share the work.

Several interests are worth their cost when they differ, when each wins places among the best items, and when the best
of them alone finds less than all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from mind_dist.encoder import InterestEncoder, Vectors
from mind_dist.evaluation import metrics
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.recommenders import best_places
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import Keys, no_keys


@dataclass(frozen=True)
class InterestFigures:
    """What one of the interests is good for; 0 where no user has all of them, or nothing was found.

    Attributes:
        share: Mean share of the best items that it wins.
        hit_share: Its share of what was found.
        recall: Recall of its own list alone.
    """

    share: float
    hit_share: float
    recall: float


@dataclass(frozen=True)
class InterestUse:
    """How a version uses its K interests, by exact search over all items that could be recommended, the history kept.

    Shares are of an interest's *index*. They tell an index that never wins from one that always does; where the index
    of the winner differs from user to user, they come out even although one interest wins all of each user's places.

    Attributes:
        cosine: Mean over users with several interests of `mean_pairwise_cosine`; 0 without such users.
        shares: For each interest, the mean over users with all K of `interest_shares`; empty without such users.
        hit_shares: For each interest, its share of what all users together found in their lists: an item found is that
            of the interest that wins it. Empty where nothing was found.
        recalls: For each interest, the mean over all users of `single_recalls`, 0 for a user who does not have it.
        limit: Length of the ranked lists.
    """

    cosine: float
    shares: list[float]
    hit_shares: list[float]
    recalls: list[float]
    limit: int

    def summary(self) -> dict[str, float]:
        """Return the figures by name: cosine, least and largest share, and recall of the best single interest."""
        found = {"interest_cosine": self.cosine, f"best_single_recall@{self.limit}": max(self.recalls)}
        if self.shares:
            found[f"least_interest_share@{self.limit}"] = min(self.shares)
            found[f"largest_interest_share@{self.limit}"] = max(self.shares)
        return found

    def by_interest(self) -> list[InterestFigures]:
        """Return the figures of each interest."""
        unknown = [0.0] * len(self.recalls)
        each = zip(self.shares or unknown, self.hit_shares or unknown, self.recalls, strict=True)
        return [InterestFigures(*figures) for figures in each]


def interest_use(
    encoder: InterestEncoder, users: Sequence[HeldOut], limit: int, at: Moments | None = None
) -> InterestUse:
    """Return how a version uses its interests.

    Args:
        encoder: The version.
        users: Histories and what followed.
        limit: Length of the ranked lists.
        at: What could be recommended to each user; None for all items.
    """
    num_interests = encoder.config.num_interests
    interests = [user.vectors for user in encoder.encode([user.history for user in users])]
    cosines = [metrics.mean_pairwise_cosine(vectors) for vectors in interests if len(vectors) > 1]
    recalls = np.zeros((len(users), num_interests))
    shares, hits = [], np.zeros(num_interests, dtype=np.int64)
    everything = np.ones(len(encoder.item_keys), dtype=np.bool_)
    available = repeat(everything, len(users)) if at is None else at.masks(encoder.item_keys)
    for user, vectors, found, mask in zip(users, interests, recalls, available, strict=True):
        scores = (vectors @ encoder.item_vectors.T)[:, mask]
        found[: len(vectors)] = single_recalls(scores, encoder.item_keys[mask], user.targets, limit)
        hits[: len(vectors)] += interest_hits(scores, encoder.item_keys[mask], user.targets, limit)
        if len(vectors) == num_interests:
            shares.append(interest_shares(scores, limit))
    return InterestUse(
        float(np.mean(cosines)) if cosines else 0.0,
        np.mean(shares, axis=0).tolist() if shares else [],
        (hits / hits.sum()).tolist() if hits.any() else [],
        recalls.mean(axis=0).tolist(),
        limit,
    )


def interest_shares(scores: Vectors, limit: int) -> NDArray[np.float64]:
    """Return the share of the best items each interest wins: shares[k] = |{i ∈ top: argmax_j s_ji = k}| / |top|, [k].

    top is the `limit` items of the largest max_j s_ji; of equal scores the first interest wins.

    Args:
        scores: Of each interest for each item, [k, N].
        limit: How many items are the best.

    >>> interest_shares(np.array([[0.9, 0.8, 0.1, 0.0], [0.5, 0.2, 0.7, 0.1]], np.float32), 3).round(2).tolist()
    [0.67, 0.33]
    """
    (top,) = best_places(scores.max(axis=0, keepdims=True), limit)
    return np.bincount(scores[:, top].argmax(axis=0), minlength=len(scores)) / len(top)


def interest_hits(scores: Vectors, item_keys: Keys, targets: Keys, limit: int) -> Keys:
    """Return how many of the targets among the best items each interest won, [k].

    Args:
        scores: Of each interest for each item, [k, N].
        item_keys: The items, [N].
        targets: What is to be found.
        limit: How many items are the best.

    >>> scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.5, 0.2, 0.7, 0.1]], np.float32)
    >>> interest_hits(scores, np.array([5, 6, 7, 8]), np.array([5, 7, 8]), 3).tolist()
    [1, 1]
    """
    if not len(scores):
        return no_keys()
    (top,) = best_places(scores.max(axis=0, keepdims=True), limit)
    found = top[np.isin(item_keys[top], targets)]
    return np.bincount(scores[:, found].argmax(axis=0), minlength=len(scores))


def single_recalls(scores: Vectors, item_keys: Keys, targets: Keys, limit: int) -> list[float]:
    """Return the recall of each interest alone: recalls[k] = recall of the `limit` items of the largest s_k, [k].

    Args:
        scores: Of each interest for each item, [k, N].
        item_keys: The items, [N].
        targets: What is to be found, repeats included.
        limit: How many items an interest gives.
    """
    return [metrics.recall(item_keys[places], targets) for places in best_places(scores, limit)]
