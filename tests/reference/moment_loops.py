"""Which items could be recommended, what was popular just before, and what chance finds: one item and event at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Event = tuple[int, int]
"""Time in milliseconds and item."""

SLOT_MS = 600_000


def popular_before(events: Sequence[Event], items: Sequence[int], moment_ms: int, window_ms: int) -> list[int]:
    """Rank items by their events in the full ten minutes of the window before a moment; equal ones by all events."""
    slot = moment_ms // SLOT_MS
    counts = dict.fromkeys(items, 0)
    for time, item in events:
        if slot - window_ms // SLOT_MS <= time // SLOT_MS < slot:
            counts[item] += 1
    return sorted(items, key=lambda item: -counts[item])


def chance_recall(candidates: Sequence[int], targets: Sequence[int], limit: int) -> tuple[float, float]:
    """Return recall and hit rate over all ways of drawing `limit` candidates."""
    draws = list(combinations(candidates, min(limit, len(candidates))))
    recalls = [len(set(draw) & set(targets)) / len(targets) for draw in draws]
    return sum(recalls) / len(draws), sum(recall > 0 for recall in recalls) / len(draws)
