"""What one step did to user states, and how that becomes metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from mind_dist.observability import Metrics
from mind_dist.states.applying import Applied


@dataclass(frozen=True, slots=True)
class StatesReport:
    """What one step did.

    Attributes:
        num_records: Records polled.
        num_poison: Records that cannot be decoded.
        num_ignored: Events of types that are not kept.
        num_applied: Records that changed a state.
        num_skipped: Records that their user's state had already.
        num_unchanged: Records that changed nothing.
        num_tombstones: Users forgotten.
        num_states: States written.
        num_forwarded: Records sent on to the partitions that their users are at home in.
    """

    num_records: int = 0
    num_poison: int = 0
    num_ignored: int = 0
    num_applied: int = 0
    num_skipped: int = 0
    num_unchanged: int = 0
    num_tombstones: int = 0
    num_states: int = 0
    num_forwarded: int = 0

    @classmethod
    def of(cls, users: Sequence[Applied], *, num_records: int, num_poison: int, num_forwarded: int) -> StatesReport:
        """Sum up what was done to each user."""
        return cls(
            num_records,
            num_poison,
            num_ignored=sum(each.num_ignored for each in users),
            num_applied=sum(each.num_applied for each in users),
            num_skipped=sum(each.num_skipped for each in users),
            num_unchanged=sum(each.num_unchanged for each in users),
            num_tombstones=sum(each.num_tombstones for each in users),
            num_states=sum(each.changed for each in users),
            num_forwarded=num_forwarded,
        )

    def plus(self, other: StatesReport) -> StatesReport:
        """Return both together."""
        return StatesReport(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def emit(self, metrics: Metrics) -> None:
        """Add it to the metrics."""
        for name, number in {
            "mind_dist_events_applied": self.num_applied,
            "mind_dist_events_forwarded": self.num_forwarded,
            "mind_dist_events_ignored": self.num_ignored,
            "mind_dist_events_skipped": self.num_skipped,
            "mind_dist_events_unchanged": self.num_unchanged,
            "mind_dist_poison_records": self.num_poison,
            "mind_dist_tombstones": self.num_tombstones,
            "mind_dist_states_written": self.num_states,
        }.items():
            metrics.add(name, number)
