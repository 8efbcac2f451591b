"""A prepared dataset → some of its valid users, by whose recall training is watched."""

from __future__ import annotations

from dataclasses import dataclass

from mind_dist.checkpoint import VersionParts
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import metrics
from mind_dist.evaluation.availability import Availability, Moments
from mind_dist.evaluation.recommenders import of_model
from mind_dist.evaluation.task import Task, find_task
from mind_dist.keys import NO_FEATURES, EventFeatures

LIMIT = 50
"""Length of the lists."""

_MOST_SCORES = 500_000_000
"""Users times items that a look may score: some seconds."""


@dataclass(frozen=True)
class ValidUsers:
    """Users whose recall says how good a version is.

    Attributes:
        task: Whom to evaluate, and among which items.
    """

    task: Task

    def __len__(self) -> int:
        return len(self.task.users)

    def recall_sums(self, version: VersionParts, part: int, num_parts: int) -> tuple[float, float, int]:
        """Return sums over every `num_parts`-th user from `part` on.

        Returns:
            Recall@50 with the history among the candidates, the same without it, and the number of users.
        """
        users = self.task.users[part::num_parts]
        if not users:
            return 0.0, 0.0, 0
        at = Moments(self.task.at.times_ms[part::num_parts], self.task.at.availability)
        recommender = of_model(InterestEncoder(version))
        found = []
        for exclude_seen in (False, True):
            ranked = recommender.recommend([each.history for each in users], LIMIT, exclude_seen=exclude_seen, at=at)
            found.append(sum(metrics.recall(keys, user.targets) for keys, user in zip(ranked, users, strict=True)))
        return found[0], found[1], len(users)


def open_valid_users(dataset: PreparedDataset, max_users: int, features: EventFeatures = NO_FEATURES) -> ValidUsers:
    """Return valid users that have both a history and targets, evenly taken from all.

    Args:
        dataset: Where they are.
        max_users: The most there may be; fewer where there are so many items that a look would take long.
        features: What the model reads of each event.

    Raises:
        DatasetError: A file is missing or torn.
    """
    there_are = dataset.manifest.num_users.get("valid", 0)
    if not there_are:  # nor is there a file that could be read
        return ValidUsers(Task([], Moments.of([], Availability.of_log(dataset.catalog()))))
    most = max(1, min(max_users, _MOST_SCORES // max(1, dataset.manifest.num_items)))
    return ValidUsers(find_task(dataset, "valid", every=-(-there_are // most), features=features))
