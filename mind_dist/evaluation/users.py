"""A prepared dataset → users with a history to be shown and a future to be found.

Split by user, the first ⌊0.8·n⌋ behaviors of a valid or test user are the history and the rest are the targets;
split by time, the cut is the split's point in time; leaving one out, all behaviors but the last are the history. Where the events of a visit share a time, as the items of an invoice do,
a cut by share falls into a visit, and most of what is asked for is its rest. Cut by visit, it moves to the nearest border. Cut
at the last, each user is asked for the last behavior alone, however the dataset was split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.keys import EventFeatures
from mind_dist.records import BehaviorSequence, Keys

Cut = Literal["share", "visit", "last"]
"""Where a user is cut: where the split says, at the border between different times that is nearest to it, or before the last
behavior."""


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

    @property
    def moment_ms(self) -> int:
        """When the user is evaluated: at the first event that followed."""
        return int(self.future.timestamps_ms[0])


def held_out(dataset: PreparedDataset, split: Literal["valid", "test"] = "test", cut: Cut = "share") -> list[HeldOut]:
    """Return the users of a split, each cut into history and future; those without either are left out.

    Cut by visit, those are left out whose events all share a time.

    Raises:
        DatasetError: A file is missing or torn, or no user is left.
    """
    users = cut_users(dataset, split, cut)
    if not users:
        raise DatasetError(dataset.directory.uri, f"the {split} split has no user with both a history and targets")
    return users


def in_context(users: Sequence[HeldOut]) -> list[HeldOut]:
    """Return the users, asked in the context of what followed first, and for what followed in that context."""
    found = []
    for user in users:
        context = user.future.moment_keys[0]
        same = (user.future.moment_keys == context).all(axis=1)
        history = replace(user.history, context_keys=context)
        found.append(HeldOut(history, user.future.take(same)))
    return found


def cut_users(
    dataset: PreparedDataset,
    split: Literal["valid", "test"],
    cut: Cut = "share",
    every: int = 1,
    features: EventFeatures | None = None,
) -> list[HeldOut]:
    """Return the same, or none where no user is left; of so many users, one.

    Args:
        dataset: Where they are.
        split: Whose users.
        cut: Where they are cut.
        every: Of so many users, one.
        features: What is read of each event; None for all that the dataset has.

    Raises:
        DatasetError: A file is missing or torn.
    """
    sequences = dataset.sequences(split, every, features)
    users = [_cut(sequence, dataset.manifest, split, cut) for sequence in sequences]
    return [user for user in users if len(user.history) and len(user.future)]


def _cut(sequence: BehaviorSequence, manifest: DatasetManifest, split: Literal["valid", "test"], cut: Cut) -> HeldOut:
    at = manifest.num_inputs(sequence, split)
    if cut == "visit":
        at = nearest_border(sequence.timestamps_ms, at)
    elif cut == "last":
        at = max(at, len(sequence) - 1)
    return HeldOut(sequence.slice(0, at), sequence.slice(at, len(sequence)))


def nearest_border(times_ms: Keys, at: int) -> int:
    """Return the place nearest to `at` (of two the earlier) where a new time begins; 0 where all times are one.

    >>> nearest_border(np.array([1, 1, 2, 2, 2, 3]), 3), nearest_border(np.array([1, 1, 2, 2, 2, 3]), 4)
    (2, 5)
    """
    borders = np.flatnonzero(np.diff(times_ms)) + 1
    return int(borders[np.abs(borders - at).argmin()]) if len(borders) else 0
