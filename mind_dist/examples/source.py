"""Training examples and where they come from, by partition: the port `ExampleSource`.

An example is a window of a user's history and the items that came next. A partition has positions, one owner at a
time, and the same examples at the same positions whoever reads it: a bucket of a prepared dataset
(`mind_dist.examples.parquet`) like a partition of an event log (`mind_dist.examples.events`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mind_dist.keys import NO_FEATURES, EventFeatures
from mind_dist.records import Keys, PartTrained, Positions, UserHistory

Mask = NDArray[np.bool_]


def _nothing() -> Keys:
    return np.empty((0, 0, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Examples:
    """n windows of users' histories and the items that followed, as columns.

    Attributes:
        history: Item keys before the targets, oldest first, [n, L]; 0 where padded.
        history_mask: True where real, [n, L].
        targets: Item keys that followed, nearest first, [n, T]; 0 where padded.
        target_mask: True where real, [n, T].
        profile: Profile feature keys, [n, P]; 0 where missing.
        timestamps_ms: Time of the last target, [n].
        behavior_keys: Features of the behaviors, 0 where missing or padded, [n, L, F]; [0, 0, 0] where none are read.
        history_moments: Contexts in which the behaviors happened, any where padded, [n, L, C]; the same.
        target_moments: Contexts in which the targets happened, any where padded, [n, T, C]; the same.
    """

    history: Keys
    history_mask: Mask
    targets: Keys
    target_mask: Mask
    profile: Keys
    timestamps_ms: Keys
    behavior_keys: Keys = field(default_factory=_nothing)
    history_moments: Keys = field(default_factory=_nothing)
    target_moments: Keys = field(default_factory=_nothing)

    def __len__(self) -> int:
        return len(self.timestamps_ms)

    @classmethod
    def none(
        cls, max_behaviors: int, num_targets: int, num_profile_features: int, features: EventFeatures = NO_FEATURES
    ) -> Examples:
        """Return no examples of given widths."""
        history, targets, profile = (
            np.zeros((0, width), dtype=np.int64) for width in (max_behaviors, num_targets, num_profile_features)
        )
        behavior, *moments = (
            np.zeros((0, width, len(names)), dtype=np.int64)
            for width, names in (
                (max_behaviors, features.behavior),
                (max_behaviors, features.context),
                (num_targets, features.context),
            )
        )
        times = np.zeros(0, dtype=np.int64)
        return cls(history, history > 0, targets, targets > 0, profile, times, behavior, *moments)

    @classmethod
    def concatenate(cls, chunks: Sequence[Examples]) -> Examples:
        """Return the examples of at least one chunk as one, in order."""
        columns = (np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(cls))
        return cls(*columns)


class ExampleSource(Protocol):
    """Examples of the partitions this worker owns, each partition's in order, from a position on.

    The state to go on from is `positions` and, for each partition, its `history`: both per partition, so that
    any number of workers can take over.
    """

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions owned, ascending."""
        ...

    @property
    def num_examples(self) -> int | None:
        """Examples left in all owned partitions together; None when that cannot be known."""
        ...

    @property
    def num_ignored(self) -> int:
        """Events of types that are no behaviors, passed over since the source was opened."""
        ...

    @property
    def num_known(self) -> int:
        """Events that were read as history alone since the source was opened: they were trained on before."""
        ...

    def take(self, partition: int, count: int) -> Examples:
        """Return the next `count` examples; fewer where the partition ends, or none came in time to a live one.

        Raises:
            PositionLost: The log no longer keeps the position to go on from.
            PoisonLimitExceeded: Too many records cannot be decoded.
            PartitionStalled: The log delivers nothing, though the partition has not ended.
            UnreadableBatch: The log has a batch that cannot be decompressed or decoded.
        """
        ...

    def positions(self) -> Positions:
        """Return, for every owned partition, the position after the last example taken."""
        ...

    def history(self, partition: int) -> Sequence[UserHistory]:
        """Return the histories behind a partition's coming examples, as of its position; none for datasets."""
        ...

    def part_trained(self) -> Mapping[int, Sequence[PartTrained]]:
        """Return parts of partitions of which only some records are trained; none for datasets."""
        ...

    def new_item_ids(self) -> Mapping[int, str]:
        """Return outside ids of items that were met since the last call and that no catalog has, by key.

        None where ids are integers, which are their own keys, and none for datasets, whose catalog has them all.
        """
        ...

    def finished(self) -> bool:
        """Tell whether all partitions have ended, so that nothing will ever come."""
        ...

    def flush(self) -> None:
        """Return when what taking examples has written elsewhere is stored; call it before a checkpoint."""
        ...

    def commit(self, positions: Positions) -> None:
        """Show positions to whoever watches the lag; call it after a checkpoint, which alone decides where to go on."""
        ...

    def close(self) -> None:
        """Leave the source."""
        ...
