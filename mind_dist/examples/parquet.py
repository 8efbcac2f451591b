"""Prepared dataset → training examples: its buckets behind the port `ExampleSource`.

A bucket is an ordered log of examples like a Kafka partition: it has positions, one owner at a time, and the same
examples at the same positions whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import ModelConfig, TrainingConfig
from mind_dist.dataset.event_values import event_keys
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.examples.source import Examples, Mask
from mind_dist.keys import NO_FEATURES, EventFeatures
from mind_dist.records import KeyRows, Keys, PartTrained, Positions, UserHistory


class ParquetExamples:
    """The train split of a prepared dataset, every epoch of it one after the other.

    A bucket with n windows is a log of epochs · n examples: position p is the (p mod n)-th of epoch p // n's
    permutation, which depends on seed, epoch and bucket alone. There is a window for each behavior but a user's first,
    its first target; or, with a stride, one for every so many of them, drawn for each epoch. They lie anywhere in the
    user's history where they are full (as full as can be); but with a stride that is the windows' length they follow
    each other without a gap, so that every behavior but the first is in a window, or its first target.

    Args:
        dataset: Where to read.
        partitions: Buckets owned.
        max_behaviors: Longest history L.
        num_targets: Most targets T of an example.
        window_stride: Behaviors for each of which there is a window.
        epochs: Passes over each bucket.
        seed: Seed of permutations and windows.
        positions: Where to go on; a bucket not named starts at its beginning.
        features: What is read of each event.

    Raises:
        DatasetError: A bucket is missing or torn.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        partitions: Iterable[int],
        *,
        max_behaviors: int,
        num_targets: int,
        window_stride: int = 1,
        epochs: int = 1,
        seed: int = 0,
        positions: Positions | None = None,
        features: EventFeatures = NO_FEATURES,
    ) -> None:
        profiles = dataset.profiles()
        self._buckets = {p: _Bucket.read(dataset, p, profiles, window_stride, features) for p in sorted(partitions)}
        self._shape = (max_behaviors, num_targets)
        self._stride = window_stride
        self._epochs = epochs
        self._seed = seed
        self._positions = {p: (positions or {}).get(p, 0) for p in self._buckets}
        self._orders: dict[int, tuple[int, Keys]] = {}

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        partitions: Iterable[int],
        model: ModelConfig,
        training: TrainingConfig,
        *,
        epochs: int = 0,
        positions: Positions | None = None,
    ) -> ParquetExamples:
        """Return what a model is trained on as its settings say, with `epochs` in place of theirs where they are set."""
        return cls(
            dataset,
            partitions,
            max_behaviors=training.max_behaviors,
            num_targets=training.num_targets,
            window_stride=training.stride,
            epochs=epochs or training.num_epochs,
            seed=training.seed,
            positions=positions,
            features=EventFeatures.of(model),
        )

    @property
    def partitions(self) -> Sequence[int]:
        """Buckets owned, ascending."""
        return list(self._buckets)

    @property
    def num_examples(self) -> int:
        """Examples left, over all epochs."""
        return sum(max(0, self._end(p) - position) for p, position in self._positions.items())

    @property
    def num_ignored(self) -> int:
        """Return 0: the dataset has events of the right types only."""
        return 0

    @property
    def num_known(self) -> int:
        """Return 0: all its events are trained."""
        return 0

    def take(self, partition: int, count: int) -> Examples:
        """Return the next `count` examples of a bucket; fewer only at its end."""
        bucket = self._buckets[partition]
        position = self._positions[partition]
        stop = max(position, min(position + count, self._end(partition)))
        chosen = [np.empty(0, dtype=np.int64)]
        while position < stop:
            epoch, first = divmod(position, len(bucket.windows))
            ordered = self._order(partition, epoch)[first : first + stop - position]
            chosen.append(ordered)
            position += len(ordered)
        self._positions[partition] = position
        return bucket.examples(np.concatenate(chosen), *self._shape)

    def positions(self) -> Positions:
        """Return the position after the last example taken from each bucket."""
        return dict(self._positions)

    def history(self, partition: int) -> Sequence[UserHistory]:
        """Return nothing: the dataset holds every history."""
        assert partition in self._buckets
        return []

    def part_trained(self) -> Mapping[int, Sequence[PartTrained]]:
        """Return nothing: buckets are read in order."""
        return {}

    def new_item_ids(self) -> Mapping[int, str]:
        """Return nothing: the dataset's catalog has all items."""
        return {}

    def finished(self) -> bool:
        """Tell whether the last epoch of every bucket is through."""
        return self.num_examples == 0

    def flush(self) -> None:
        """Do nothing: nothing was written."""

    def commit(self, positions: Positions) -> None:
        """Do nothing: nobody watches the lag of a dataset."""

    def close(self) -> None:
        """Do nothing: the dataset is in memory."""

    def _end(self, partition: int) -> int:
        return self._epochs * len(self._buckets[partition].windows)

    def _order(self, partition: int, epoch: int) -> Keys:
        """Return the windows of a bucket in an epoch's order, the newest kept at hand."""
        at_hand = self._orders.get(partition)
        if at_hand is None or at_hand[0] != epoch:
            bucket, generator = self._buckets[partition], np.random.default_rng([self._seed, epoch, partition])
            order = generator.permutation(len(bucket.windows))
            at_hand = (epoch, self._drawn(bucket, generator)[order])
            self._orders[partition] = at_hand
        return at_hand[1]

    def _drawn(self, bucket: _Bucket, generator: np.random.Generator) -> Keys:
        """Return where an epoch's windows lie."""
        if self._stride == 1:
            return bucket.windows
        longest = self._shape[0]
        return bucket.cover(longest, generator) if self._stride == longest else bucket.draw(longest, generator)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The users of one bucket, flat.

    Attributes:
        items: Item keys of all users, one after the other, [E].
        timestamps_ms: Their times, [E].
        offsets: Where each user's behaviors start, [U + 1].
        windows: Index of the first target of every example, [n].
        profile: Profile keys of each user, [U, P].
        behavior_keys: Features of the behaviors, [E, F].
        moment_keys: Contexts in which they happened, [E, C].
    """

    items: Keys
    timestamps_ms: Keys
    offsets: Keys
    windows: Keys
    profile: Keys
    behavior_keys: KeyRows
    moment_keys: KeyRows

    @classmethod
    def read(
        cls,
        dataset: PreparedDataset,
        bucket: int,
        profiles: Mapping[int, Keys],
        stride: int,
        features: EventFeatures,
    ) -> _Bucket:
        table = dataset.read_bucket("train", bucket)
        lengths = pc.list_value_length(table["item_ids"]).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        from_last = np.repeat(offsets[1:], lengths) - 1 - np.arange(offsets[-1])
        starts_user = np.zeros(offsets[-1] + 1, dtype=np.bool_)
        starts_user[offsets] = True
        users = table["user_id"].to_pylist()
        found = [profiles.get(user, dataset.no_profile) for user in users]
        profile = np.array(found, dtype=np.int64).reshape(len(users), len(dataset.no_profile))
        windows = np.flatnonzero(~starts_user[:-1] & (from_last % stride == 0))
        keys = event_keys(table, features)
        return cls(_flat(table["item_ids"]), _flat(table["timestamps_ms"]), offsets, windows, profile, *keys)

    def draw(self, max_behaviors: int, generator: np.random.Generator) -> Keys:
        """Return a window of the same user for each, anywhere where it is full, or the fullest there is."""
        users = np.searchsorted(self.offsets, self.windows, side="right") - 1
        last = self.offsets[users + 1] - 1
        first = np.minimum(self.offsets[users] + max_behaviors, last)
        return first + (generator.random(len(users)) * (last - first + 1)).astype(np.int64)

    def cover(self, length: int, generator: np.random.Generator) -> Keys:
        """Return windows that follow each other, and overlap where they have room, at random.

        A user's k-th of K windows has its first target at k · length, less what the windows up to it overlap or lack:
        sorted random numbers up to K · length less the behaviors to cover, which it is for the last window.
        """
        users = np.searchsorted(self.offsets, self.windows, side="right") - 1
        starts_user = np.append(True, users[1:] != users[:-1])[: len(users)]
        ranks = 1 + np.arange(len(users)) - np.maximum.accumulate(np.where(starts_user, np.arange(len(users)), 0))
        is_last = np.append(starts_user[1:], True)[: len(users)]
        room = -(self.offsets[users + 1] - self.offsets[users] - 1) % length
        shifts = (generator.random(len(users)) * (room + 1)).astype(np.int64)
        shifts = np.where(is_last, room, shifts[np.lexsort((shifts, users))])
        return np.asarray(self.offsets[users] + ranks * length - shifts, dtype=np.int64)

    def examples(self, windows: Keys, max_behaviors: int, num_targets: int) -> Examples:
        """Return the examples whose first targets are at `windows`."""
        users = np.searchsorted(self.offsets, windows, side="right") - 1
        first = np.maximum(self.offsets[users], windows - max_behaviors)
        seen, is_seen = self._places(first, windows, max_behaviors)
        following, follows = self._places(windows, self.offsets[users + 1], num_targets)
        return Examples(
            np.where(is_seen, self.items[seen], 0),
            is_seen,
            np.where(follows, self.items[following], 0),
            follows,
            self.profile[users],
            self.timestamps_ms[windows + follows.sum(axis=1) - 1],
            np.where(is_seen[:, :, None], self.behavior_keys[seen], 0),
            self.moment_keys[seen],
            self.moment_keys[following],
        )

    def _places(self, first: Keys, stop: Keys, width: int) -> tuple[Keys, Mask]:
        """Return the first `width` places of each range, any where it ends before, and which of them are real."""
        at = first[:, None] + np.arange(width)
        return np.minimum(at, max(0, len(self.items) - 1)), at < stop[:, None]


def _flat(column: pa.ChunkedArray) -> Keys:
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.int64)
