"""Recent popularity: what everybody turned to just before a moment; short-lived items have to be measured against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from mind_dist.dataset.activity import SLOT_MS, Activity
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.floors.ranking import Scored, ranked_rows, seen_rows
from mind_dist.evaluation.floors.train_log import TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Clock, Effort, Tuned
from mind_dist.records import BehaviorSequence, Keys

_HOUR_MS = 3_600_000

WINDOWS_H = (1, 3, 6, 12, 24, 72, 168, 336, 720, 1_440, 2_880, 8_760)
"""Windows to choose from: an hour to a year."""

_MOST_USERS = 1_000


@dataclass(frozen=True)
class Window:
    """Settings of recent popularity.

    Attributes:
        hours: Length of the window.
    """

    hours: int = 24


@dataclass(frozen=True)
class RecentPopularity:
    """Recommends the items with most events in a window before the moment; equal ones by train events.

    The window ends with the last full ten minutes before the moment, so no event after it counts.

    Attributes:
        log: The items, and how popular they are.
        activity: Events by item and time.
        window_ms: Length of the window.
    """

    log: TrainLog
    activity: Activity
    window_ms: int

    def recommend(
        self, histories: Sequence[BehaviorSequence], limit: int, *, exclude_seen: bool, at: Moments | None = None
    ) -> list[Keys]:
        """Return for each history the most popular items at its moment; without moments, after its newest event."""
        keys = self.log.catalog.keys
        times_ms = _newest_ms(histories) if at is None else at.times_ms
        order = np.argsort(times_ms, kind="stable")
        in_order = [histories[place] for place in order]
        hidden = seen_rows(in_order, self.log) if exclude_seen else repeat(None)
        masks = None if at is None else Moments(times_ms[order], at.availability).masks(keys)
        ranked = ranked_rows(self._scored(times_ms[order]), limit, self.log, hidden, masks)
        found = dict(zip(order.tolist(), ranked, strict=True))
        return [keys[found[place]] for place in range(len(histories))]

    def _scored(self, times_ms: Keys) -> Iterator[Scored]:
        """Yield what had events before each of some moments, which are in order: the window slides along."""
        rows = self.log.catalog.rows(self.activity.item_keys)
        weights = np.where(rows >= 0, self.activity.counts, 0)
        rows = np.maximum(rows, 0)
        counts = np.zeros(len(self.log.catalog), dtype=np.int64)
        begin = end = 0
        for slot in np.floor_divide(times_ms, SLOT_MS).tolist():
            start, stop = np.searchsorted(self.activity.slots, (slot - self.window_ms // SLOT_MS, slot))
            np.add.at(counts, rows[end:stop], weights[end:stop])
            np.subtract.at(counts, rows[begin:start], weights[begin:start])
            begin, end = start, stop
            found = np.flatnonzero(counts)
            yield found, counts[found].astype(np.float32)


def _newest_ms(histories: Sequence[BehaviorSequence]) -> Keys:
    return np.array([history.timestamps_ms[-1] if len(history) else 0 for history in histories], dtype=np.int64)


def fit(log: TrainLog, settings: Window) -> RecentPopularity:
    """Return recent popularity with a window."""
    return RecentPopularity(log, log.activity, settings.hours * _HOUR_MS)


def tune(log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[Window]:
    """Return the window that finds most on the users chosen by."""
    clock = Clock("recent popularity", effort or Effort())
    some = choice.thinned(_MOST_USERS)
    best, quality = Window(), 0.0
    for window in map(Window, WINDOWS_H):
        found = some.quality(fit(log, window))
        if found > quality:
            best, quality = window, found
        clock.count(quality)
        if clock.is_up:
            break
    return clock.result(best, quality)
