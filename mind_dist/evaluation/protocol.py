"""The protocol of ComiRec: what a user did first is shown, what followed is to be found among all items.

Split by user, the first ⌊0.8·n⌋ behaviors of a valid or test user are the history and the rest are the targets;
split by time, the cut is the split's point in time. Search is exact, over all items, the history kept among them;
every metric is also given with the history's items left out (`…_removed`).
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
from mind_dist.errors import ConfigError, DatasetError, VersionError
from mind_dist.evaluation import metrics
from mind_dist.evaluation.recommenders import Recommender, of_model, popularity, transitions
from mind_dist.records import BehaviorSequence, Keys

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
        num_items: Items that were searched.
        metrics: By recommender.
    """

    dataset: str
    model_version: str
    split: Literal["valid", "test"]
    num_items: int
    metrics: Report


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A user to be evaluated.

    Attributes:
        history: What a recommender is shown.
        future: What followed.
    """

    history: BehaviorSequence
    future: BehaviorSequence

    @property
    def targets(self) -> Keys:
        """The items that followed, repeats included."""
        return self.future.item_keys


def held_out(dataset: PreparedDataset, split: Literal["valid", "test"] = "test") -> list[HeldOut]:
    """Return the users of a split, each cut into history and future; those without either are left out.

    Raises:
        DatasetError: A file is missing or torn, or no user is left.
    """
    cut = [_cut(sequence, dataset.manifest, split) for sequence in dataset.sequences(split)]
    users = [user for user in cut if len(user.history) and len(user.future)]
    if not users:
        raise DatasetError(dataset.directory.uri, f"the {split} split has no user with both a history and targets")
    return users


def _cut(sequence: BehaviorSequence, manifest: DatasetManifest, split: Literal["valid", "test"]) -> HeldOut:
    cut = manifest.num_inputs(sequence, split)
    return HeldOut(sequence.slice(0, cut), sequence.slice(cut, len(sequence)))


def measure(
    recommender: Recommender, users: Sequence[HeldOut], catalog: ItemCatalog, category: str = ""
) -> dict[str, float]:
    """Return all metrics of a recommender, means over the users; diversity where `category` names a column.

    Raises:
        ConfigError: The catalog has no such column.
    """
    categories = category_indicators(catalog, category) if category else None
    histories = [user.history for user in users]
    found: dict[str, float] = {}
    for suffix, exclude_seen in (("", False), ("_removed", True)):
        ranked = recommender.recommend(histories, max(CUTOFFS), exclude_seen=exclude_seen)
        for limit in CUTOFFS:
            values = _metrics([keys[:limit] for keys in ranked], users, catalog, categories, limit)
            found |= {f"{name}@{limit}{suffix}": value for name, value in values.items()}
    return found


def _metrics(
    ranked: Sequence[Keys],
    users: Sequence[HeldOut],
    catalog: ItemCatalog,
    categories: NDArray[np.bool_] | None,
    limit: int,
) -> dict[str, float]:
    pairs = [(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]
    recommended = catalog.rows(np.unique(np.concatenate(ranked)))
    means = {
        "recall": np.mean([metrics.recall(*pair) for pair in pairs]),
        "hit_rate": np.mean([metrics.hit_rate(*pair) for pair in pairs]),
        "ndcg": np.mean([metrics.ndcg(*pair, limit) for pair in pairs]),
        "coverage": (recommended >= 0).sum() / max(1, len(catalog)),
    }
    if categories is not None:
        means["diversity"] = np.mean([metrics.diversity(categories[catalog.rows(keys)]) for keys in ranked])
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
) -> Report:
    """Return the metrics of a model version and of the baselines.

    The model's also have `interest_cosine`: the mean cosine between the interests of a user, over users with several.

    Args:
        dataset: What to evaluate on.
        encoder: The version.
        split: Whose users.
        category: Column of the item catalog for diversity; the first categorical feature when empty.

    Raises:
        VersionError: The version was trained on ids of another type.
        DatasetError: A file is missing or torn, or the split has no user to evaluate.
        ConfigError: The catalog has no such column.
    """
    if encoder.manifest.id_type != dataset.manifest.id_type:
        problem = f"has {encoder.manifest.id_type} ids, the dataset {dataset.manifest.id_type}"
        raise VersionError(encoder.model_version, problem)
    users, catalog = held_out(dataset, split), dataset.catalog()
    category = category or _first_category(dataset.manifest)
    recommenders = {"model": of_model(encoder), "popularity": popularity(catalog), "transitions": transitions(dataset)}
    report = {name: measure(each, users, catalog, category) for name, each in recommenders.items()}
    report["model"]["interest_cosine"] = interest_cosine(encoder, users)
    return report


def interest_cosine(encoder: InterestEncoder, users: Sequence[HeldOut]) -> float:
    """Return the mean cosine between the interests of a user, over users with several; 0 without such users."""
    vectors = [user.vectors for user in encoder.encode([user.history for user in users])]
    cosines = [metrics.mean_pairwise_cosine(several) for several in vectors if len(several) > 1]
    return float(np.mean(cosines)) if cosines else 0.0


def _first_category(manifest: DatasetManifest) -> str:
    names = [feature.name for feature in manifest.item_features if feature.kind != "buckets"]
    return names[0] if names else ""
