"""Scores of some items → ranked lists: what all floors share.

A floor scores only the items it knows something about. The others follow by popularity, as does the order of equal
scores, so that a list is always full and always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.floors.train_log import Rows, TrainLog
from mind_dist.records import BehaviorSequence, Keys

Scored = tuple[Rows, NDArray[np.float32]]
"""Distinct items as rows of the catalog, [n], and their scores, [n]."""

_AT_ONCE = 512


@dataclass(frozen=True)
class FloorRecommender:
    """Ranks what a floor scores, and then all else by popularity.

    Attributes:
        log: What the floor was counted from.
        score: Histories → the items scored for each of them.
    """

    log: TrainLog
    score: Callable[[Sequence[BehaviorSequence]], Iterable[Scored]]

    def recommend(
        self, histories: Sequence[BehaviorSequence], limit: int, *, exclude_seen: bool, at: Moments | None = None
    ) -> list[Keys]:
        """Return for each history at most `limit` distinct items, best first."""
        found: list[Keys] = []
        for start in range(0, len(histories), _AT_ONCE):
            chunk = slice(start, start + _AT_ONCE)
            hidden = seen_rows(histories[chunk], self.log) if exclude_seen else repeat(None)
            masks = repeat(None) if at is None else at.masks(self.log.catalog.keys, chunk)
            ranked = ranked_rows(self.score(histories[chunk]), limit, self.log, hidden, masks)
            found += [self.log.catalog.keys[rows] for rows in ranked]
        return found


def seen_rows(histories: Sequence[BehaviorSequence], log: TrainLog) -> list[Rows]:
    """Return the items of each history, as rows of the catalog."""
    rows = [log.catalog.rows(history.item_keys) for history in histories]
    return [np.unique(each[each >= 0]) for each in rows]


def ranked_rows(
    scored: Iterable[Scored],
    limit: int,
    log: TrainLog,
    hidden: Iterable[Rows | None],
    masks: Iterable[NDArray[np.bool_] | None] | None = None,
) -> Iterator[Rows]:
    """Yield for each user the best `limit` rows.

    Args:
        scored: Items scored for each user.
        limit: Most rows.
        log: What popularity comes from.
        hidden: Rows each user is not to get, distinct; None for none.
        masks: Which rows could be recommended to each user, [N]; None for all.
    """
    is_hidden = np.zeros(len(log.catalog), dtype=np.bool_)
    for (rows, scores), left_out, mask in zip(scored, hidden, masks or repeat(None), strict=False):
        kept = np.ones(len(rows), dtype=np.bool_) if mask is None else mask[rows]
        if left_out is not None:
            is_hidden[left_out] = True
            kept &= ~is_hidden[rows]
        best = best_rows(rows[kept], scores[kept], limit, log)
        is_hidden[best] = True
        if len(best) < limit:
            best = np.concatenate([best, _popular(limit - len(best), log, is_hidden, mask)])
        yield best
        is_hidden[best] = False
        if left_out is not None:
            is_hidden[left_out] = False


def best_rows(rows: Rows, scores: NDArray[np.float32], limit: int, log: TrainLog) -> Rows:
    """Return the rows of the largest scores, best first, and of equal ones the more popular first."""
    if len(rows) > limit:
        least = np.partition(scores, len(rows) - limit)[len(rows) - limit]
        among = scores >= least
        rows, scores = rows[among], scores[among]
    return np.asarray(rows[np.lexsort((log.ranks[rows], -scores))[:limit]])


def _popular(count: int, log: TrainLog, is_hidden: NDArray[np.bool_], mask: NDArray[np.bool_] | None) -> Rows:
    """Return the most popular rows that are not hidden: of a growing start of all of them, since few are."""
    length = 2 * count
    while True:
        start = log.popular[:length]
        free = start[~is_hidden[start] if mask is None else mask[start] & ~is_hidden[start]]
        if len(free) >= count or length >= len(log.popular):
            return free[:count]
        length *= 4
