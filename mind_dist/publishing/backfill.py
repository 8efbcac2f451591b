"""Users of a new version: their histories, from the version before or from a dataset, encoded anew."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from mind_dist.config import ModelConfig
from mind_dist.dataset.parquet import PreparedDataset, Split
from mind_dist.encoder import UserInterests
from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.keys import EventFeatures
from mind_dist.records import BehaviorSequence, no_keys

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class History:
    """A user to encode.

    Attributes:
        sequence: What the user did.
        partition: Partition of the log the user's events come from; -1 when none came yet.
        next_offset: Events of that partition below it are in the sequence.
    """

    sequence: BehaviorSequence
    partition: int = -1
    next_offset: int = 0

    def row(self, interests: UserInterests, model_version: str) -> UserRow:
        """Return the user with the interests a version gives."""
        return UserRow(
            user_key=self.sequence.user_key,
            interests=interests.vectors,
            weights=interests.weights,
            behaviors=self.sequence.item_keys,
            timestamps_ms=self.sequence.timestamps_ms,
            profile=self.sequence.profile_keys,
            partition=self.partition,
            next_offset=self.next_offset,
            updated_ms=time.time_ns() // 1_000_000,
            model_version=model_version,
            behavior_keys=self.sequence.behavior_keys,
        )


def histories_of(store: VectorStore, model_version: str, config: ModelConfig, max_behaviors: int) -> Iterator[History]:
    """Yield every user of a version as a new one takes it: the newest behaviors, a profile of the features it knows.

    A profile of another number of features cannot be read, and counts as missing; so do features of behaviors.
    """
    num_features = len(config.behavior_features)
    for row in store.scan_users(model_version):
        profile = row.profile if len(row.profile) == config.num_profile_features else no_keys()
        kinds = row.behavior_keys
        if kinds.shape[1] != num_features:
            kinds = np.zeros((len(row.behaviors), num_features), dtype=np.int64)
        sequence = BehaviorSequence(row.user_key, row.behaviors, row.timestamps_ms, profile, kinds)
        yield History(sequence.newest(max_behaviors), row.partition, row.next_offset)


def dataset_users(
    dataset: PreparedDataset, shown: Literal["inputs", "all"] = "all", behavior_features: tuple[str, ...] = ()
) -> Iterator[BehaviorSequence]:
    """Yield each user of a prepared dataset once, with the longest history it has.

    Args:
        dataset: The dataset; split by time or leave-one-out, it has a user in several splits, the later ones with more.
        shown: `all` behaviors, or of valid and test users the `inputs` alone: what is left for evaluation to find,
            or for a replay to bring, is not given away.
        behavior_features: Features of behaviors that the version reads.
    """
    seen: set[int] = set()
    splits: tuple[Split, ...] = ("test", "valid", "train")
    for split in splits:
        for sequence in dataset.sequences(split, features=EventFeatures(behavior_features)):
            if sequence.user_key not in seen:
                seen.add(sequence.user_key)
                count = dataset.manifest.num_inputs(sequence, split) if shown == "inputs" else len(sequence)
                yield sequence.slice(0, count)


def missing_from(store: VectorStore, model_version: str, histories: Sequence[History]) -> list[History]:
    """Return the histories of users that a version does not have."""
    there = store.get_users(model_version, [history.sequence.user_key for history in histories], strong=True)
    return [history for history in histories if history.sequence.user_key not in there]


def from_sequences(sequences: Iterable[BehaviorSequence], max_behaviors: int) -> Iterator[History]:
    """Yield users as a version takes them: with their newest behaviors."""
    return (History(sequence.newest(max_behaviors)) for sequence in sequences)


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield values in lists of `size`, the last one shorter."""
    batch: list[T] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
