"""The protocols: what a user did first is shown, what followed is to be found.

Split by user, this is ComiRec's: everything that followed, among all items of the log. Split by time, a user is evaluated
at the first event after the cut: among the items that were available at that moment, those of them are to be found that
the user turned to from then on. Leaving one out, the last event of each user is to be found, among all items of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.evaluation import metrics
from mind_dist.evaluation.categories import Categories, first_that_tell_apart
from mind_dist.evaluation.chance import chance
from mind_dist.evaluation.floors import FLOORS, Effort, TrainLog, choice_of
from mind_dist.evaluation.floors.transitions import transitions
from mind_dist.evaluation.interest_use import InterestFigures, interest_use
from mind_dist.evaluation.measuring import CUTOFFS, MAIN_CUTOFF, Measured, measured
from mind_dist.evaluation.opponents import Fitted, TunedFloor, fitted, opponents
from mind_dist.evaluation.recommenders import Recommender, of_model, popularity
from mind_dist.evaluation.task import Task, by_time, task_of
from mind_dist.evaluation.users import Cut, HeldOut, in_context
from mind_dist.evaluation.verdict import Verdict, verdict_of
from mind_dist.keys import EventFeatures

_RECENT = FLOORS["recent_popularity"].title

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
        cut: Where a user of a dataset split by user was cut.
        category: Column of the item catalog that diversity and category coverage are taken over; empty without one.
        common_categories: Categories left out there, since nearly all items have them.
        interests: What each of the model's interests is good for.
        floors: How its opponents were tuned, by name; empty where none were asked for.
        verdict: Whether the model is worth deploying, beside them.
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
    cut: Cut = "share"
    category: str = ""
    common_categories: tuple[str, ...] = ()
    interests: tuple[InterestFigures, ...] = ()
    floors: dict[str, TunedFloor] = field(default_factory=dict)
    verdict: Verdict | None = None


def evaluate_version(
    dataset: PreparedDataset,
    encoder: InterestEncoder,
    split: Literal["valid", "test"] = "test",
    category: str = "",
    *,
    cut: Cut = "share",
    floors: Effort | None = None,
) -> EvaluationReport:
    """Return the metrics of a model version and of what it has to beat.

    The model's also have `interest_use`: how different its interests are, what each wins, what the best does alone; and,
    where all items of the log are candidates, what becomes of its lists when the catalog's items without events are, too.

    Args:
        dataset: What to evaluate on.
        encoder: The version.
        split: Whose users.
        category: Column of the item catalog for diversity and category coverage; when empty, the first categorical
            feature that tells items apart.
        cut: Where valid and test users of a dataset split by user are cut.
        floors: How long all floors may be tuned on the valid users, for a verdict on the model; without, it stands beside
            popularity and transitions, by time also beside recent popularity, its window chosen on the valid users.

    Raises:
        VersionError: The version was trained on ids of another type.
        DatasetError: A file is missing or torn, or the split has no user to evaluate.
        ConfigError: The catalog has no such column.
    """
    if encoder.manifest.id_type != dataset.manifest.id_type:
        problem = f"has {encoder.manifest.id_type} ids, the dataset {dataset.manifest.id_type}"
        raise VersionError(encoder.model_version, problem)
    task, catalog = task_of(dataset, split, cut, EventFeatures.of(encoder.config)), dataset.catalog()
    categories = Categories.of(catalog, category) if category else first_that_tell_apart(catalog, dataset.manifest)

    def of(recommender: Recommender) -> Measured:
        return measured(recommender, task.users, catalog, categories, task.at)

    model, use = of(of_model(encoder)), interest_use(encoder, task.users, MAIN_CUTOFF, task.at)
    beside, tuning = _beside(dataset, cut, floors)
    others = {name: of(recommender) for name, recommender in beside.items()}
    report = {"model": model.means | use.summary()} | {name: each.means for name, each in others.items()}
    if _RECENT in tuning:
        report[_RECENT]["window_h"] = tuning[_RECENT].settings["hours"]
    if encoder.config.context_features:
        report["model"] |= _in_context(encoder, task)
    if by_time(dataset):
        report["chance"] = _by_chance(task, catalog)
    elif catalog.is_cold.any():
        report["model"] |= _with_cold_items(encoder, task.users, catalog)
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
        cut,
        "" if categories is None else categories.column,
        () if categories is None else categories.left_out,
        tuple(use.by_interest()),
        {} if floors is None else tuning,
        None if floors is None else verdict_of(model.recalls, {name: each.recalls for name, each in others.items()}),
    )


def _beside(
    dataset: PreparedDataset, cut: Cut, floors: Effort | None
) -> tuple[dict[str, Recommender], dict[str, TunedFloor]]:
    """Return what stands beside a model, and how what is tuned of it was."""
    found: dict[str, Fitted] = {}
    if floors is not None:
        found = opponents(TrainLog.read(dataset), choice_of(dataset, cut), floors)
    elif by_time(dataset):
        found = {_RECENT: fitted("recent_popularity", TrainLog.read(dataset), choice_of(dataset, cut))}
    untuned = (
        {"popularity": popularity(dataset.catalog()), "transitions": transitions(dataset)} if floors is None else {}
    )
    beside = untuned | {name: each.recommender for name, each in found.items()}
    return beside, {name: each.tuning for name, each in found.items()}


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


def _in_context(encoder: InterestEncoder, task: Task) -> dict[str, float]:
    """Return the recall of what followed in the context of the first event that did: asked in it, and in none."""
    limit, asked, found = max(CUTOFFS), in_context(task.users), {}
    for name, users in (("in_context", asked), ("in_none", task.users)):
        histories = [user.history for user in users]
        ranked = of_model(encoder).recommend(histories, limit, exclude_seen=False, at=task.at)
        recalls = [metrics.recall(keys, user.targets) for keys, user in zip(ranked, asked, strict=True)]
        found[f"recall@{limit}_{name}"] = float(np.mean(recalls))
    return found


def _by_chance(task: Task, catalog: ItemCatalog) -> dict[str, float]:
    found: dict[str, float] = {}
    for suffix, exclude_seen in (("", False), ("_removed", True)):
        for limit in CUTOFFS:
            values = chance(task.users, catalog.keys, limit, task.at, exclude_seen=exclude_seen)
            found |= {f"{name}@{limit}{suffix}": values[name] for name in ("recall", "hit_rate")}
            found[f"candidates{suffix}"] = values["candidates"]
    return found
