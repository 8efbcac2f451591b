"""A prepared dataset → what is to be done with it: who is trained on, who is chosen by, who is reported.

Choosing (settings, an epoch) may look at `choosing` alone; what is published of a choice comes from `reporting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from benchmarks.dataset_info import DatasetInfo
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation import Cut, HeldOut, Recommender, held_out, metrics

Protocol = Literal["user-split", "leave-one-out"]
Part = Literal["valid", "test"]
PARTS: tuple[Part, Part] = ("valid", "test")
History = Literal["kept", "removed"]
"""Whether items of the history may be recommended."""

_CHOICE_CUTOFF = 50


@dataclass(frozen=True)
class Stage:
    """A dataset to train on, and the users that are then measured; none of their targets is in its train split.

    Attributes:
        dataset: What is trained on.
        users: Histories and what followed.
    """

    dataset: PreparedDataset
    users: list[HeldOut]

    @cached_property
    def catalog(self) -> ItemCatalog:
        """The items."""
        return self.dataset.catalog()


@dataclass(frozen=True)
class Task:
    """A protocol on a dataset.

    Attributes:
        protocol: Which one.
        info: What the dataset is measured with.
        choosing: What choices are made by.
        reporting: What is published.
        histories: What is measured.
        choice: A recommender and the users of `choosing` → how good it is; the larger the better.
        max_behaviors: Longest history L.
    """

    protocol: Protocol
    info: DatasetInfo
    choosing: Stage
    reporting: Stage
    histories: tuple[History, ...]
    choice: Callable[[Recommender, Sequence[HeldOut]], float]
    max_behaviors: int

    def stage(self, part: Part) -> Stage:
        """Return the stage whose users are measured."""
        return self.choosing if part == "valid" else self.reporting

    def quality(self, recommender: Recommender) -> float:
        """Return how good a recommender trained for `choosing` is there."""
        return self.choice(recommender, self.choosing.users)


def user_split(info: DatasetInfo, dataset: PreparedDataset, cut: Cut = "share") -> Task:
    """Return ComiRec's protocol: other users than those trained on, their first 80 % shown (arXiv 2005.09347).

    Cut by visit, the 80 % end where a time does.
    """
    valid, test = (Stage(dataset, held_out(dataset, part, cut)) for part in PARTS)
    return Task("user-split", info, valid, test, ("kept", "removed"), mean_recall, info.max_behaviors)


def mean_recall(recommender: Recommender, users: Sequence[HeldOut]) -> float:
    """Return recall@50, half of it with the history kept and half with it removed: one setting has to serve both."""
    return float(np.mean([recall(recommender, users, history) for history in ("kept", "removed")]))


def recall(recommender: Recommender, users: Sequence[HeldOut], history: str) -> float:
    """Return mean recall@50."""
    histories = [user.history for user in users]
    ranked = recommender.recommend(histories, _CHOICE_CUTOFF, exclude_seen=history == "removed")
    return float(np.mean([metrics.recall(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]))
