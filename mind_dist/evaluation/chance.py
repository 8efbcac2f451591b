"""What drawing items at random finds: with other candidates for every user, no figure says much without it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import Keys


def chance(
    users: Sequence[HeldOut], item_keys: Keys, limit: int, at: Moments, *, exclude_seen: bool
) -> dict[str, float]:
    """Return what `limit` items drawn at random are expected to find: recall, hit rate, and the candidates a user has.

    Args:
        users: Histories and what followed.
        item_keys: The items, ascending, [N].
        limit: Items drawn, each once.
        at: What could be recommended to each user.
        exclude_seen: A history's own items are no candidates.
    """
    found = [
        _expected(item_keys[mask], user, limit, exclude_seen=exclude_seen)
        for user, mask in zip(users, at.masks(item_keys), strict=True)
    ]
    recalls, hit_rates, counts = np.mean(found, axis=0).tolist()
    return {"recall": recalls, "hit_rate": hit_rates, "candidates": counts}


def _expected(candidates: Keys, user: HeldOut, limit: int, *, exclude_seen: bool) -> tuple[float, float, float]:
    if exclude_seen:
        candidates = candidates[~np.isin(candidates, user.history.item_keys)]
    num_candidates, num_wanted = len(candidates), int(np.isin(candidates, user.targets).sum())
    drawn = min(limit, num_candidates)
    recall = num_wanted * drawn / max(1, num_candidates) / len(user.targets)
    missing_all = math.comb(num_candidates - num_wanted, drawn) / math.comb(num_candidates, drawn)
    return recall, 1.0 - missing_all, float(num_candidates)
