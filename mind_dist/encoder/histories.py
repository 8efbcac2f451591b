"""Behavior sequences → the newest behaviors of known items, padded to the shape of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mind_dist.encoder.shapes import Chunk
from mind_dist.encoder.vectors import KeyedVectors
from mind_dist.records import BehaviorSequence, KeyRows, Keys


class Padded(NamedTuple):
    """Behaviors of a chunk's users, oldest first, padded at the end.

    Attributes:
        keys: Item keys, 0 where padded, [B, L].
        rows: Rows of the items' vectors; that behind the last where padded, [B, L].
        features: Keys of the behaviors' features, 0 where missing, [B, L, F].
    """

    keys: KeyRows
    rows: KeyRows
    features: NDArray[np.int64]


class Histories:
    """What some users did, as far as a model reads it: the newest behaviors, of items that have a vector.

    Args:
        sequences: The users.
        items: The items that have a vector.
        num_features: Features of behaviors that the model reads.
        max_behaviors: The longest history it reads.

    Attributes:
        counts: Behaviors of each user, [n].

    Raises:
        ValueError: A sequence has behavior keys, but not as many as the model has such features.
    """

    def __init__(
        self, sequences: Sequence[BehaviorSequence], items: KeyedVectors, num_features: int, max_behaviors: int
    ) -> None:
        keys = np.concatenate([sequence.item_keys for sequence in sequences])
        users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        rows = items.rows(keys)
        known = np.flatnonzero(rows < len(items))
        counts = np.bincount(users[known], minlength=len(sequences))
        age = np.repeat(np.cumsum(counts), counts) - np.arange(len(known))  # 1 for a user's newest behavior
        newest = known[age <= max_behaviors]
        self.counts: Keys = np.minimum(counts, max_behaviors)
        self._no_row = len(items)
        self._keys, self._rows = keys[newest], rows[newest]
        self._features = _features(sequences, num_features)[newest] if num_features else np.empty((0, 0), np.int64)

    def padded(self, chunk: Chunk) -> Padded:
        """Return the behaviors of a chunk's users."""
        counts = self.counts[chunk.users]
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        target = np.repeat(np.arange(len(counts)), counts), places
        source = np.repeat(np.cumsum(self.counts)[chunk.users] - counts, counts) + places
        shape = chunk.num_users, chunk.length
        keys, rows = np.zeros(shape, dtype=np.int64), np.full(shape, self._no_row)
        features = np.zeros((*shape, self._features.shape[1]), dtype=np.int64)
        keys[target], rows[target] = self._keys[source], self._rows[source]
        if features.shape[2]:
            features[target] = self._features[source]
        return Padded(keys, rows, features)


def _features(sequences: Sequence[BehaviorSequence], num_features: int) -> KeyRows:
    """Return the keys of all behaviors' features, those of one user after those of another."""
    missing = np.zeros((max(len(sequence) for sequence in sequences), num_features), dtype=np.int64)
    return np.concatenate(
        [
            _checked(sequence, num_features) if sequence.behavior_keys.size else missing[: len(sequence)]
            for sequence in sequences
        ]
    )


def _checked(sequence: BehaviorSequence, num_features: int) -> KeyRows:
    if sequence.behavior_keys.shape != (len(sequence), num_features):
        found = f"user {sequence.user_key} has behavior keys of shape {list(sequence.behavior_keys.shape)}"
        raise ValueError(
            f"{found}, not {[len(sequence), num_features]}: the model has {num_features} behavior features"
        )
    return sequence.behavior_keys
