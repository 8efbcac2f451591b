"""A prepared dataset → whom to evaluate, when, and what could be recommended to them then."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mind_dist.dataset.activity import read_activity
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.evaluation.availability import Availability, Moments
from mind_dist.evaluation.users import Cut, HeldOut, cut_users
from mind_dist.keys import EventFeatures


@dataclass(frozen=True)
class Task:
    """Whom to evaluate, and what could be recommended to them.

    Attributes:
        users: Histories and what is to be found.
        at: The users' moments, and which items were available then.
        num_unavailable_targets: Events left out because their item was not available at the user's moment: it came
            later, or was gone.
        num_unavailable_users: Users left out because they have no other.
    """

    users: list[HeldOut]
    at: Moments
    num_unavailable_targets: int = 0
    num_unavailable_users: int = 0

    @property
    def num_targets(self) -> int:
        """Events to be found, of all users."""
        return sum(len(user.future) for user in self.users)


def by_time(dataset: PreparedDataset) -> bool:
    """Tell whether a dataset is split by time."""
    return dataset.manifest.split.get("by") == "time"


def task_of(
    dataset: PreparedDataset,
    split: Literal["valid", "test"] = "test",
    cut: Cut = "share",
    features: EventFeatures | None = None,
) -> Task:
    """Return the users of a split and what they can find: all of it, but by time what was available.

    Args:
        dataset: The dataset.
        split: Whose users.
        cut: Where they are cut, where the dataset is split by user.
        features: What is read of each event; None for all that the dataset has.

    Raises:
        DatasetError: A file is missing or torn, or the split has no user to evaluate.
    """
    task = find_task(dataset, split, cut, features=features)
    if not task.users:
        problem = f"the {split} split has no user with both a history and targets"
        if task.num_unavailable_users:
            problem = f"none of the {task.num_unavailable_targets} targets of the {split} split was available in time"
        raise DatasetError(dataset.directory.uri, problem)
    return task


def find_task(
    dataset: PreparedDataset,
    split: Literal["valid", "test"],
    cut: Cut = "share",
    every: int = 1,
    features: EventFeatures | None = None,
) -> Task:
    """Return the same, without users where there are none; of so many users of the split, one.

    Raises:
        DatasetError: A file is missing or torn.
    """
    users, catalog = cut_users(dataset, split, cut, every, features), dataset.catalog()
    if not by_time(dataset):
        return Task(users, Moments.of(users, Availability.of_log(catalog)))
    availability = Availability.of_time(catalog, read_activity(dataset))
    reachable = [_reachable(user, availability) for user in users]
    moments_ms = Moments.of(users, availability).times_ms
    left = np.array([len(user.future) > 0 for user in reachable], dtype=np.bool_)
    num_left_out = sum(len(user.future) for user in users) - sum(len(user.future) for user in reachable)
    kept = [user for user in reachable if len(user.future)]
    return Task(kept, Moments(moments_ms[left], availability), num_left_out, int((~left).sum()))


def _reachable(user: HeldOut, availability: Availability) -> HeldOut:
    """Return a user with only the targets that were available at the user's moment."""
    kept = availability.of(user.targets).at(user.moment_ms)
    return dataclasses.replace(user, future=user.future.take(kept))
