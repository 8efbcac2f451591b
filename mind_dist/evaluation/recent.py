"""What was popular just before a moment: the baseline that short-lived items have to be measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mind_dist.data.activity import SLOT_MS, Activity, read_activity
from mind_dist.data.parquet import ItemCatalog, PreparedDataset
from mind_dist.evaluation import metrics
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.recommenders import ExactRecommender, popularity_ranks
from mind_dist.evaluation.task import Task, find_task
from mind_dist.records import BehaviorSequence, Keys

_HOUR_MS = 3_600_000

WINDOWS_MS = tuple(hours * _HOUR_MS for hours in (1, 3, 6, 12, 24, 72, 168))
"""Windows to choose from: an hour to a week."""

_DEFAULT_WINDOW_MS = 24 * _HOUR_MS
_CHOICE_CUTOFF = 50


@dataclass(frozen=True)
class RecentPopularity:
    """Recommends the items with most events of all users in a window before the moment; equal ones by train events.

    The window ends with the last full ten minutes before the moment, so no event after it counts.

    Attributes:
        catalog: The items.
        activity: Events by item and time.
        window_ms: Length of the window.
    """

    catalog: ItemCatalog
    activity: Activity
    window_ms: int

    def recommend(
        self, histories: Sequence[BehaviorSequence], limit: int, *, exclude_seen: bool, at: Moments | None = None
    ) -> list[Keys]:
        """Return for each history the most popular items at its moment.

        Raises:
            ValueError: There are no moments.
        """
        if at is None:
            raise ValueError("recent popularity needs the moments of the histories")
        found: list[Keys] = [np.empty(0, dtype=np.int64)] * len(histories)
        for places, counts in self._by_slot(at.times_ms):
            now = Moments(at.times_ms[places], at.availability)
            exact = ExactRecommender(self.catalog.keys, partial(_to_all, counts))
            ranked = exact.recommend([histories[place] for place in places], limit, exclude_seen=exclude_seen, at=now)
            for place, keys in zip(places, ranked, strict=True):
                found[place] = keys
        return found

    def _by_slot(self, times_ms: Keys) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
        """Yield the places of the moments of each ten minutes, and what items count then, [N]."""
        rows = self.catalog.rows(self.activity.item_keys)
        tie_break = 0.5 * (1.0 - popularity_ranks(self.catalog) / max(1, len(self.catalog)))
        slots = np.floor_divide(times_ms, SLOT_MS)
        for slot, places in groupby(np.argsort(slots, kind="stable").tolist(), key=lambda place: int(slots[place])):
            start, stop = np.searchsorted(self.activity.slots, (slot - self.window_ms // SLOT_MS, slot))
            inside, counts = rows[start:stop], self.activity.counts[start:stop]
            known = inside >= 0
            yield list(places), tie_break + np.bincount(inside[known], counts[known], minlength=len(self.catalog))


def _to_all(scores: NDArray[np.float64], histories: Sequence[BehaviorSequence]) -> NDArray[np.float64]:
    return np.tile(scores, (len(histories), 1))


def recent_popularity(dataset: PreparedDataset) -> RecentPopularity:
    """Return recent popularity with the window that valid users find most by (recall@50); a day where there are none.

    Raises:
        DatasetError: A file is missing or torn.
    """
    catalog, activity, task = dataset.catalog(), read_activity(dataset), find_task(dataset, "valid")
    if not task.users:
        return RecentPopularity(catalog, activity, _DEFAULT_WINDOW_MS)
    candidates = [RecentPopularity(catalog, activity, window_ms) for window_ms in WINDOWS_MS]
    return max(candidates, key=lambda each: _recall(each, task))


def _recall(recommender: RecentPopularity, task: Task) -> float:
    histories = [user.history for user in task.users]
    ranked = recommender.recommend(histories, _CHOICE_CUTOFF, exclude_seen=False, at=task.at)
    return float(np.mean([metrics.recall(keys, user.targets) for keys, user in zip(ranked, task.users, strict=True)]))
