"""A user's row × what a batch brought of the user → the user's next history; pure.

Applying is deterministic in the log alone: records below the row's `next_offset` are in it already, and those that
change nothing leave the row, `next_offset` included, as it is. So batches may be cut anywhere and repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from mind_dist.index.vector_store import UserRow
from mind_dist.records import BehaviorSequence, Event, Keys, Record, Tombstone
from mind_dist.serving.intake import Delivery


@dataclass(slots=True)
class UserUpdate:
    """What one batch does to one user.

    Attributes:
        history: The user's history so far.
        partition: Partition of the last record that changed it.
        next_offset: Position after that record.
        row_exists: The store has a row of the user.
        known: The user has not been forgotten (or has come back).
        applied: Records whose events changed the history.
        events: Those events.
        num_skipped: Records that the row had already.
        num_unchanged: Events that changed nothing: duplicates, or older than a full history.
        num_tombstones: Times the user was forgotten.
    """

    history: BehaviorSequence
    partition: int = -1
    next_offset: int = 0
    row_exists: bool = False
    known: bool = False
    applied: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    num_skipped: int = 0
    num_unchanged: int = 0
    num_tombstones: int = 0

    @classmethod
    def of(cls, user_key: int, row: UserRow | None, no_profile: Keys) -> Self:
        """Start from a row, or from nothing with a missing profile."""
        if row is None:
            return cls(BehaviorSequence(user_key, profile_keys=no_profile))
        history = BehaviorSequence(user_key, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
        return cls(history, row.partition, row.next_offset, row_exists=True, known=True)

    @property
    def writes(self) -> bool:
        """Whether the user's row must be written."""
        return self.known and bool(self.applied)

    @property
    def deletes(self) -> bool:
        """Whether the user's row must be deleted."""
        return self.row_exists and not self.known

    def apply(self, deliveries: Iterable[Delivery], max_behaviors: int, no_profile: Keys) -> Self:
        """Apply a user's records in order and return self."""
        for delivery in deliveries:
            record = delivery.record
            if record.partition == self.partition and record.offset < self.next_offset:
                self.num_skipped += 1
            elif isinstance(delivery.change, Tombstone):
                self._forget(record, no_profile)
            else:
                self._take(record, delivery.change, max_behaviors)
        return self

    def _forget(self, record: Record, no_profile: Keys) -> None:
        self.history = BehaviorSequence(self.history.user_key, profile_keys=no_profile)
        self.partition, self.next_offset = record.partition, record.offset + 1
        self.known = False
        self.num_tombstones += 1

    def _take(self, record: Record, event: Event, max_behaviors: int) -> None:
        merged = self.history.merge([event], max_behaviors)
        if merged is self.history:
            self.num_unchanged += 1
            return
        self.history, self.known = merged, True
        self.partition, self.next_offset = record.partition, record.offset + 1
        self.applied.append(record)
        self.events.append(event)
