"""A recommender and users → the metrics of each user, history kept or removed; how a model uses its interests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks import History, Protocol, Stage
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import CUTOFFS, HeldOut, Recommender, metrics, of_model
from mind_dist.evaluation.categories import Categories
from mind_dist.evaluation.interest_use import interest_use
from mind_dist.evaluation.measuring import CURVE_CUTOFFS
from mind_dist.index.vector_store import Hits
from mind_dist.records import Candidate, Keys
from mind_dist.retrieval import POOL_FACTOR, aggregate, merge

PerUser = dict[str, NDArray[np.float64]]
"""Metric → its value for each user, [n]; NaN where it is not defined for one."""

DIVERSITY_WEIGHTS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
"""λ along the curve of accuracy against diversity."""

_LONG_CUTOFFS = (100, 200, 500)
"""Lengths at which retrieval hands its list on to ranking; recall alone is taken at them."""

_MAIN = 50
_MOST_DIVERSIFIED_USERS = 500


@dataclass(frozen=True)
class Measurement:
    """What came of a recommender, history kept or removed.

    Attributes:
        per_user: Metrics of each user.
        figures: What is no mean over users.
        curves: Points by the curve's name, what is varied first.
    """

    per_user: PerUser
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Return each metric's mean over the users it is defined for."""
        return {name: float(np.nanmean(values)) for name, values in self.per_user.items()}


def measure(recommender: Recommender, stage: Stage, protocol: Protocol, category: str, history: History) -> Measurement:
    """Measure any recommender; diversity and coverage where `category` names a column."""
    users = stage.users
    ranked = rank(recommender, users, history)
    per_user = _METRICS[protocol](ranked, users)
    if category:
        per_user |= category_metrics(ranked, users, stage.catalog, category)
        per_user["num_categories"] = num_categories(users, stage.catalog, category)
    found = Measurement(per_user, {"interest_cosine": 0.0})
    for limit in CURVE_CUTOFFS:
        recalls = [metrics.recall(keys[:limit], user.targets) for keys, user in zip(ranked, users, strict=True)]
        found.curves.setdefault("recall", []).append([limit, float(np.mean(recalls))])
    return found


def rank(recommender: Recommender, users: Sequence[HeldOut], history: History) -> list[Keys]:
    """Return each user's best items, as many as any metric looks at."""
    histories = [user.history for user in users]
    return recommender.recommend(histories, max(CURVE_CUTOFFS), exclude_seen=history == "removed")


def split_metrics(ranked: Sequence[Keys], users: Sequence[HeldOut]) -> PerUser:
    """Return recall, hit rate and NDCG of the user split, and recall in longer lists."""
    pairs = [(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    found: PerUser = {}
    for limit in CUTOFFS:
        found[f"recall@{limit}"] = np.array([metrics.recall(keys[:limit], targets) for keys, targets in pairs])
        found[f"hit@{limit}"] = np.array([metrics.hit_rate(keys[:limit], targets) for keys, targets in pairs])
        found[f"ndcg@{limit}"] = np.array([metrics.ndcg(keys, targets, limit) for keys, targets in pairs])
    for limit in _LONG_CUTOFFS:
        found[f"recall@{limit}"] = np.array([metrics.recall(keys[:limit], targets) for keys, targets in pairs])
    return found


def leave_one_out_metrics(ranked: Sequence[Keys], users: Sequence[HeldOut]) -> PerUser:
    """Return hit rate and NDCG of one target each."""
    pairs = [(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    found = {
        f"hr@{n}": np.array([metrics.hit_rate(keys[:n], targets) for keys, targets in pairs]) for n in (10, 50, 200)
    }
    return found | {"ndcg@10": np.array([metrics.ndcg(keys, targets, 10) for keys, targets in pairs])}


_METRICS: Mapping[Protocol, Callable[[Sequence[Keys], Sequence[HeldOut]], PerUser]] = MappingProxyType(
    {"user-split": split_metrics, "leave-one-out": leave_one_out_metrics}
)


def category_metrics(ranked: Sequence[Keys], users: Sequence[HeldOut], catalog: ItemCatalog, category: str) -> PerUser:
    """Return diversity, and how many of the categories a user turned to next the list has at all."""
    indicators = Categories.of(catalog, category).indicators
    wanted = [indicators[catalog.rows(user.targets)] for user in users]
    found: PerUser = {}
    for limit in CUTOFFS:
        listed = [indicators[catalog.rows(keys[:limit])] for keys in ranked]
        pairs = zip(listed, wanted, strict=True)
        covered = [metrics.category_coverage(have, want) if want.any() else np.nan for have, want in pairs]
        found[f"category_coverage@{limit}"] = np.array(covered)
        found[f"diversity@{limit}"] = np.array([metrics.diversity(have) for have in listed])
    return found


def num_categories(users: Sequence[HeldOut], catalog: ItemCatalog, category: str) -> NDArray[np.float64]:
    """Return how many categories the items of each user's history have between them."""
    indicators = Categories.of(catalog, category).indicators
    histories = [indicators[catalog.rows(user.history.item_keys)] for user in users]
    return np.array([items.any(axis=0).sum() for items in histories], dtype=np.float64)


class ModelInterests:
    """The interests a model gives some users, and what each of them is good for.

    Args:
        encoder: The model.
        stage: The users.
    """

    def __init__(self, encoder: InterestEncoder, stage: Stage) -> None:
        self._encoder = encoder
        self._stage = stage
        encoded = encoder.encode([user.history for user in stage.users])
        self._vectors = {user.history.user_key: got.vectors for user, got in zip(stage.users, encoded, strict=True)}

    def measure(self, protocol: Protocol, category: str, history: History) -> Measurement:
        """Measure the model, and how its interests share the work."""
        found = measure(of_model(self._encoder), self._stage, protocol, category, history)
        use = interest_use(self._encoder, self._stage.users, _MAIN)
        found.figures.update(use.summary())
        points = zip(use.shares or [1.0], use.recalls, strict=False)
        found.curves["interest"] = [[number, *each] for number, each in enumerate(points)]
        if category:
            found.curves["diversity"] = self.diversity_curve(category, history)
        return found

    def diversity_curve(self, category: str, history: History) -> list[list[float]]:
        """Return [λ, recall, diversity] of controllable aggregation, as serving does it, over the first users."""
        users = self._stage.users[:_MOST_DIVERSIFIED_USERS]
        catalog = self._stage.catalog
        indicators = Categories.of(catalog, category).indicators
        names = [np.flatnonzero(row).tolist() for row in indicators]
        pools = [self._pool(user, history) for user in users]
        of_pools = [[names[row] for row in catalog.rows(_keys(pool))] for pool in pools]
        curve = []
        for weight in DIVERSITY_WEIGHTS:
            pairs = zip(pools, of_pools, strict=True)
            chosen = [_keys(aggregate(pool, categories, _MAIN, weight)) for pool, categories in pairs]
            recalls = [metrics.recall(keys, user.targets) for keys, user in zip(chosen, users, strict=True)]
            diversities = [metrics.diversity(indicators[catalog.rows(keys)]) for keys in chosen]
            curve.append([weight, float(np.mean(recalls)), float(np.mean(diversities))])
        return curve

    def _pool(self, user: HeldOut, history: History) -> list[Candidate]:
        """Return what all interests found, each in a list of `POOL_FACTOR` times the items wanted."""
        seen = user.history.item_keys.tolist() if history == "removed" else []
        hits = []
        for scores in self._vectors[user.history.user_key] @ self._encoder.item_vectors.T:
            best = np.argsort(-scores, kind="stable")[: POOL_FACTOR * _MAIN + len(seen)]
            hits.append(Hits(self._encoder.item_keys[best], scores[best]))
        return merge(hits, exclude=seen)


def _keys(candidates: Sequence[Candidate]) -> Keys:
    return np.array([candidate.item_key for candidate in candidates], dtype=np.int64)
