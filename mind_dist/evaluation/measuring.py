"""A recommender × held-out users → metrics.

Search is exact, the history kept among the items; every metric of ranked items is also given with the history's items left
out (`…_removed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.evaluation import metrics
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.categories import Categories
from mind_dist.evaluation.recommenders import Recommender
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import Keys

CUTOFFS = (20, 50)
"""Lengths N of the ranked lists that metrics are taken at."""

CURVE_CUTOFFS = (5, 10, 20, 50, 100, 200, 500)
"""Lengths of the ranked list along the curve of recall: the longer ones are what retrieval hands on to ranking."""

MAIN_CUTOFF = 50
"""The length by which recommenders are compared."""

Values = NDArray[np.float64]

_SUFFIXES = (("", False), ("_removed", True))


@dataclass(frozen=True)
class Measured:
    """What came of a recommender.

    Attributes:
        means: Metric → its mean over the users: `recall@50` with the history kept, `recall@50_removed` without.
        recalls: Recall of each user in lists of `MAIN_CUTOFF`, the mean of history kept and removed, [n].
    """

    means: dict[str, float]
    recalls: Values


def measure(
    recommender: Recommender,
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    category: str = "",
    at: Moments | None = None,
) -> dict[str, float]:
    """Return the means of `measured`; where `category` names a column of the catalog, with its categories.

    Raises:
        ConfigError: The catalog has no such column.
    """
    categories = Categories.of(catalog, category) if category else None
    return measured(recommender, users, catalog, categories, at).means


def measured(
    recommender: Recommender,
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    categories: Categories | None = None,
    at: Moments | None = None,
) -> Measured:
    """Return all metrics of a recommender.

    With categories, they have `diversity` and, over users whose targets have a category, `category_coverage`.

    Args:
        recommender: What to measure.
        users: Histories and what followed.
        catalog: The items.
        categories: Of the items.
        at: When each user is evaluated, and what could be recommended then; None for all items.
    """
    histories = [user.history for user in users]
    num_items = len(catalog) if at is None else int(at.availability.of(catalog.keys).ever(at.times_ms).sum())
    means: dict[str, float] = {}
    recalls = np.zeros(len(users))
    for suffix, exclude_seen in _SUFFIXES:
        ranked = recommender.recommend(histories, max(CURVE_CUTOFFS), exclude_seen=exclude_seen, at=at)
        for limit in CURVE_CUTOFFS:
            of_users = _recalls(ranked, users, limit)
            means[f"recall@{limit}{suffix}"] = float(of_users.mean())
            recalls += of_users / len(_SUFFIXES) if limit == MAIN_CUTOFF else 0.0
        for limit in CUTOFFS:
            values = _metrics([keys[:limit] for keys in ranked], users, catalog, categories, limit)
            values["coverage"] /= max(1, num_items)
            means |= {f"{name}@{limit}{suffix}": value for name, value in values.items()}
    return Measured(means, recalls)


def _recalls(ranked: Sequence[Keys], users: Sequence[HeldOut], limit: int) -> Values:
    return np.array([metrics.recall(keys[:limit], user.targets) for keys, user in zip(ranked, users, strict=True)])


def _metrics(
    ranked: Sequence[Keys],
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    categories: Categories | None,
    limit: int,
) -> dict[str, float]:
    """Return means over the users by name; `coverage` is still the number of items recommended to anybody."""
    pairs = [(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    recommended = catalog.rows(np.unique(np.concatenate(ranked)))
    means = {
        "hit_rate": np.mean([metrics.hit_rate(*pair) for pair in pairs]),
        "ndcg": np.mean([metrics.ndcg(*pair, limit) for pair in pairs]),
        "coverage": (recommended >= 0).sum(),
    }
    if categories is not None:
        listed = [categories.indicators[catalog.rows(keys)] for keys in ranked]
        wanted = [categories.indicators[catalog.rows(user.targets)] for user in users]
        means["diversity"] = np.mean([metrics.diversity(each) for each in listed])
        covered = [metrics.category_coverage(*pair) for pair in zip(listed, wanted, strict=True) if pair[1].any()]
        if covered:
            means["category_coverage"] = np.mean(covered)
    return {name: float(value) for name, value in means.items()}
