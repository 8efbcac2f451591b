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
from mind_dist.records import Keys


@dataclass(frozen=True)
class InterestUse:
    """How a version uses its K interests, by exact search over all items that could be recommended, the history kept.

    Shares are of an interest's *index*. They tell an index that never wins from one that always does; where the index
    of the winner differs from user to user, they come out even although one interest wins all of each user's places.

    Attributes:
        cosine: Mean over users with several interests of `mean_pairwise_cosine`; 0 without such users.
        shares: For each interest, the mean over users with all K of `interest_shares`; empty without such users.
        recalls: For each interest, the mean over all users of `single_recalls`, 0 for a user who does not have it.
        limit: Length of the ranked lists.
    """

    cosine: float
    shares: list[float]
    recalls: list[float]
    limit: int

    def summary(self) -> dict[str, float]:
        """Return the figures by name: cosine, least and largest share, and recall of the best single interest."""
        found = {"interest_cosine": self.cosine, f"best_single_recall@{self.limit}": max(self.recalls)}
        if self.shares:
            found[f"least_interest_share@{self.limit}"] = min(self.shares)
            found[f"largest_interest_share@{self.limit}"] = max(self.shares)
        return found


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
    shares = []
    everything = np.ones(len(encoder.item_keys), dtype=np.bool_)
    available = repeat(everything, len(users)) if at is None else at.masks(encoder.item_keys)
    for user, vectors, found, mask in zip(users, interests, recalls, available, strict=True):
        scores = (vectors @ encoder.item_vectors.T)[:, mask]
        found[: len(vectors)] = single_recalls(scores, encoder.item_keys[mask], user.targets, limit)
        if len(vectors) == num_interests:
            shares.append(interest_shares(scores, limit))
    return InterestUse(
        float(np.mean(cosines)) if cosines else 0.0,
        np.mean(shares, axis=0).tolist() if shares else [],
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


def single_recalls(scores: Vectors, item_keys: Keys, targets: Keys, limit: int) -> list[float]:
    """Return the recall of each interest alone: recalls[k] = recall of the `limit` items of the largest s_k, [k].

    Args:
        scores: Of each interest for each item, [k, N].
        item_keys: The items, [N].
        targets: What is to be found, repeats included.
        limit: How many items an interest gives.
    """
    return [metrics.recall(item_keys[places], targets) for places in best_places(scores, limit)]
