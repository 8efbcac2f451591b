"""Prepared dataset → training examples: its buckets behind the port `ExampleSource`.

A bucket is an ordered log of examples like a Kafka partition: it has positions, one owner at a time, and the same
examples at the same positions whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mind_dist.config import ModelConfig, TrainingConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.profile_keys import ProfileKeys
from mind_dist.examples.blocks import BucketLog, Windowing
from mind_dist.examples.source import Examples
from mind_dist.keys import NO_FEATURES, EventFeatures
from mind_dist.records import PartTrained, Positions, UserHistory


class ParquetExamples:
    """The train split of a prepared dataset, every epoch of it one after the other.

    A bucket with n windows is a log of epochs · n examples: position p is the (p mod n)-th of epoch p // n, in an order that
    depends on seed, epoch and bucket alone (`mind_dist.examples.blocks`). There is a window for each behavior but a user's first,
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
        owned = sorted(partitions)
        profiles = ProfileKeys.of_buckets(dataset, owned)
        windowing = Windowing(max_behaviors, num_targets, window_stride, features, profiles.of)
        self._reader = ThreadPoolExecutor(1, "read-blocks")
        self._logs = {
            p: BucketLog(dataset.open_bucket("train", p), p, windowing, epochs=epochs, seed=seed, reader=self._reader)
            for p in owned
        }
        self._positions = {p: (positions or {}).get(p, 0) for p in owned}

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
        return list(self._logs)

    @property
    def num_examples(self) -> int:
        """Examples left, over all epochs."""
        return sum(max(0, self._logs[p].end - position) for p, position in self._positions.items())

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
        log, position = self._logs[partition], self._positions[partition]
        stop = max(position, min(position + count, log.end))
        self._positions[partition] = stop
        return log.read(position, stop)

    def positions(self) -> Positions:
        """Return the position after the last example taken from each bucket."""
        return dict(self._positions)

    def history(self, partition: int) -> Sequence[UserHistory]:
        """Return nothing: the dataset holds every history."""
        assert partition in self._logs
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
        """Close the files."""
        for log in self._logs.values():
            log.close()
        self._reader.shutdown()
