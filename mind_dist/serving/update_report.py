"""What one step of an updater did, and how that becomes metrics."""

from __future__ import annotations

from dataclasses import dataclass

from mind_dist.observability import Metrics


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one step did.

    Attributes:
        num_records: Records polled.
        num_poison: Records that cannot be decoded.
        num_ignored: Events of types that the version does not take as behaviors.
        num_applied: Events that changed a history.
        num_skipped: Records that their user's row had already.
        num_unchanged: Events that changed nothing.
        num_unknown_items: Applied events whose item the version does not know.
        num_tombstones: Users forgotten.
        num_upserts: Rows written.
        num_deletes: Rows deleted.
        freshness_s: For every applied event, the time from its append to its user's row.
    """

    num_records: int = 0
    num_poison: int = 0
    num_ignored: int = 0
    num_applied: int = 0
    num_skipped: int = 0
    num_unchanged: int = 0
    num_unknown_items: int = 0
    num_tombstones: int = 0
    num_upserts: int = 0
    num_deletes: int = 0
    freshness_s: tuple[float, ...] = ()

    def emit(self, metrics: Metrics, model_version: str) -> None:
        """Add it to the metrics."""
        for name, number in {
            "mind_dist_events_applied": self.num_applied,
            "mind_dist_events_ignored": self.num_ignored,
            "mind_dist_events_skipped": self.num_skipped,
            "mind_dist_events_unchanged": self.num_unchanged,
            "mind_dist_events_unknown_item": self.num_unknown_items,
            "mind_dist_poison_records": self.num_poison,
            "mind_dist_tombstones": self.num_tombstones,
            "mind_dist_user_upserts": self.num_upserts,
        }.items():
            metrics.add(name, number, model_version=model_version)
        for freshness_s in self.freshness_s:
            metrics.observe("mind_dist_freshness_seconds", freshness_s, model_version=model_version)
