"""A prepared dataset → users with a history to be shown and a future to be found.

Split by user, the first ⌊0.8·n⌋ behaviors of a valid or test user are the history and the rest are the targets;
split by time, the cut is the split's point in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mind_dist.data.parquet import DatasetManifest, PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.records import BehaviorSequence, Keys


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


def held_out(dataset: PreparedDataset, split: Literal["valid", "test"] = "test") -> list[HeldOut]:
    """Return the users of a split, each cut into history and future; those without either are left out.

    Raises:
        DatasetError: A file is missing or torn, or no user is left.
    """
    users = cut_users(dataset, split)
    if not users:
        raise DatasetError(dataset.directory.uri, f"the {split} split has no user with both a history and targets")
    return users


def cut_users(dataset: PreparedDataset, split: Literal["valid", "test"]) -> list[HeldOut]:
    """Return the same, or none where no user is left.

    Raises:
        DatasetError: A file is missing or torn.
    """
    cut = [_cut(sequence, dataset.manifest, split) for sequence in dataset.sequences(split)]
    return [user for user in cut if len(user.history) and len(user.future)]


def _cut(sequence: BehaviorSequence, manifest: DatasetManifest, split: Literal["valid", "test"]) -> HeldOut:
    cut = manifest.num_inputs(sequence, split)
    return HeldOut(sequence.slice(0, cut), sequence.slice(cut, len(sequence)))
