"""The protocols: what a user did first is shown, what followed is to be found.

Split by user, this is ComiRec's: everything that followed, among all items of the log. Split by time, a user is evaluated
at the first event after the cut: among the items that were available at that moment, those of them are to be found that
the user turned to from then on.

Search is exact, the history kept among the items; every metric of ranked items is also given with the history's items left
out (`…_removed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.data.parquet import DatasetManifest, ItemCatalog, PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError, VersionError
from mind_dist.evaluation import metrics
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.chance import chance
from mind_dist.evaluation.floors import FLOORS, TrainLog, choice_of, tuned
from mind_dist.evaluation.floors.transitions import transitions
from mind_dist.evaluation.interest_use import interest_use
from mind_dist.evaluation.recommenders import Recommender, of_model, popularity
from mind_dist.evaluation.task import Task, by_time, task_of
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import Keys

CUTOFFS = (20, 50)
"""Lengths N of the ranked lists that metrics are taken at."""

Report = dict[str, dict[str, float]]
"""Recommender → metric → value: `recall@50` with the history kept, `recall@50_removed` without."""


@dataclass(frozen=True)
class EvaluationReport:
    """A report with what it is about; as JSON it is what `jobs.evaluate` writes.

    Attributes:
        dataset: URI of the dataset.
        model_version: The version.
        split: Whose users.
        num_items: Items of the log.
        metrics: By recommender.
        num_users: Users evaluated.
        num_targets: What they are to find, all together.
        num_unavailable_targets: Further events after the cut, left out because the item was not available at the
            user's moment, or not any more.
        num_unavailable_users: Users left out who have no other.
    """

    dataset: str
    model_version: str
    split: Literal["valid", "test"]
    num_items: int
    metrics: Report
    num_users: int = 0
    num_targets: int = 0
    num_unavailable_targets: int = 0
    num_unavailable_users: int = 0


def measure(
    recommender: Recommender,
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    category: str = "",
    at: Moments | None = None,
) -> dict[str, float]:
    """Return all metrics of a recommender, means over the users.

    Where `category` names a column, they have `diversity` and, over users whose targets have a category,
    `category_coverage`.

    Args:
        recommender: What to measure.
        users: Histories and what followed.
        catalog: The items.
        category: A column of the catalog, or empty.
        at: When each user is evaluated, and what could be recommended then; None for all items.

    Raises:
        ConfigError: The catalog has no such column.
    """
    categories = category_indicators(catalog, category) if category else None
    histories = [user.history for user in users]
    num_items = len(catalog) if at is None else int(at.availability.of(catalog.keys).ever(at.times_ms).sum())
    found: dict[str, float] = {}
    for suffix, exclude_seen in (("", False), ("_removed", True)):
        ranked = recommender.recommend(histories, max(CUTOFFS), exclude_seen=exclude_seen, at=at)
        for limit in CUTOFFS:
            values = _metrics([keys[:limit] for keys in ranked], users, catalog, categories, limit)
            values["coverage"] /= max(1, num_items)
            found |= {f"{name}@{limit}{suffix}": value for name, value in values.items()}
    return found


def _metrics(
    ranked: Sequence[Keys],
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    categories: NDArray[np.bool_] | None,
    limit: int,
) -> dict[str, float]:
    """Return means over the users by name; `coverage` is still the number of items recommended to anybody."""
    pairs = [(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    recommended = catalog.rows(np.unique(np.concatenate(ranked)))
    means = {
        "recall": np.mean([metrics.recall(*pair) for pair in pairs]),
        "hit_rate": np.mean([metrics.hit_rate(*pair) for pair in pairs]),
        "ndcg": np.mean([metrics.ndcg(*pair, limit) for pair in pairs]),
        "coverage": (recommended >= 0).sum(),
    }
    if categories is not None:
        listed = [categories[catalog.rows(keys)] for keys in ranked]
        wanted = [categories[catalog.rows(user.targets)] for user in users]
        means["diversity"] = np.mean([metrics.diversity(each) for each in listed])
        covered = [metrics.category_coverage(*pair) for pair in zip(listed, wanted, strict=True) if pair[1].any()]
        if covered:
            means["category_coverage"] = np.mean(covered)
    return {name: float(value) for name, value in means.items()}


def category_indicators(catalog: ItemCatalog, category: str) -> NDArray[np.bool_]:
    """Return which categories each item has, [N + 1, C]; the last row is for what the catalog does not have.

    Raises:
        ConfigError: The catalog has no such column.
    """
    if category not in catalog.table.column_names:
        raise ConfigError("category", f"no column of the item catalog; it has {', '.join(catalog.table.column_names)}")
    column = catalog.table[category].combine_chunks()
    several = str(column.type).startswith("list")
    rows = pc.list_parent_indices(column).to_numpy() if several else np.arange(len(column))
    encoded = (pc.list_flatten(column) if several else column).dictionary_encode()
    known = np.asarray(encoded.is_valid())
    indicators = np.zeros((len(catalog) + 1, len(encoded.dictionary)), dtype=np.bool_)
    indicators[rows[known], np.asarray(encoded.indices.drop_null())] = True
    return indicators


def evaluate_version(
    dataset: PreparedDataset, encoder: InterestEncoder, split: Literal["valid", "test"] = "test", category: str = ""
) -> EvaluationReport:
    """Return the metrics of a model version and of the baselines.

    The model's also have `interest_use`: how different its interests are, what each wins, what the best does alone; and,
    split by user, what becomes of its lists when the catalog's items without events are candidates, too.
    Split by time, recent popularity is among the baselines, its window chosen on the valid users, and so is chance.

    Args:
        dataset: What to evaluate on.
        encoder: The version.
        split: Whose users.
        category: Column of the item catalog for diversity and category coverage; the first categorical feature when
            empty.

    Raises:
        VersionError: The version was trained on ids of another type.
        DatasetError: A file is missing or torn, or the split has no user to evaluate.
        ConfigError: The catalog has no such column.
    """
    if encoder.manifest.id_type != dataset.manifest.id_type:
        problem = f"has {encoder.manifest.id_type} ids, the dataset {dataset.manifest.id_type}"
        raise VersionError(encoder.model_version, problem)
    task, catalog = task_of(dataset, split), dataset.catalog()
    category = category or _first_category(dataset.manifest)
    recommenders: dict[str, Recommender] = {"model": of_model(encoder), "popularity": popularity(catalog)}
    if by_time(dataset):
        log = TrainLog.read(dataset)
        window = tuned("recent_popularity", log, choice_of(dataset)).settings
        recommenders["recent popularity"] = FLOORS["recent_popularity"].fit(log, window)
    recommenders["transitions"] = transitions(dataset)
    report = {name: measure(each, task.users, catalog, category, task.at) for name, each in recommenders.items()}
    report["model"] |= interest_use(encoder, task.users, max(CUTOFFS), task.at).summary()
    if not by_time(dataset) and catalog.is_cold.any():
        report["model"] |= _with_cold_items(encoder, task.users, catalog)
    if by_time(dataset):
        report["recent popularity"]["window_h"] = window.hours
        report["chance"] = _by_chance(task, catalog)
    return EvaluationReport(
        dataset.directory.uri,
        encoder.model_version,
        split,
        dataset.manifest.num_items,
        report,
        len(task.users),
        task.num_targets,
        task.num_unavailable_targets,
        task.num_unavailable_users,
    )


def _with_cold_items(encoder: InterestEncoder, users: Sequence[HeldOut], catalog: ItemCatalog) -> dict[str, float]:
    """Return what the items without events, which are searched once published, do to the model's lists.

    Returns:
        The recall with them among the candidates, and the mean share of the lists that they take.
    """
    histories, limit = [user.history for user in users], max(CUTOFFS)
    ranked = of_model(encoder).recommend(histories, limit, exclude_seen=False)
    cold = catalog.keys[catalog.is_cold]
    recalls = [metrics.recall(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    shares = [float(np.isin(keys, cold).mean()) if len(keys) else 0.0 for keys in ranked]
    return {f"recall@{limit}_with_cold": float(np.mean(recalls)), f"cold_share@{limit}": float(np.mean(shares))}


def _by_chance(task: Task, catalog: ItemCatalog) -> dict[str, float]:
    found: dict[str, float] = {}
    for suffix, exclude_seen in (("", False), ("_removed", True)):
        for limit in CUTOFFS:
            values = chance(task.users, catalog.keys, limit, task.at, exclude_seen=exclude_seen)
            found |= {f"{name}@{limit}{suffix}": values[name] for name in ("recall", "hit_rate")}
            found[f"candidates{suffix}"] = values["candidates"]
    return found


def _first_category(manifest: DatasetManifest) -> str:
    names = [feature.name for feature in manifest.item_features if feature.kind in ("category", "categories")]
    return names[0] if names else ""
