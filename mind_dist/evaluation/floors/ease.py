"""EASE: each item regressed on all others (arXiv 1905.03375), applied to the newest items of a history.

It inverts a matrix of M × M, so M is bounded: of a larger catalog it knows the items with most train events alone, and the
others follow by popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mind_dist.evaluation.floors.ranking import FloorRecommender, Scored, ranked_rows, seen_rows
from mind_dist.evaluation.floors.recency import DECAYS, LASTS, Histories
from mind_dist.evaluation.floors.train_log import Rows, TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Clock, Effort, Grid, Point, Search, Tuned, Wanted
from mind_dist.records import BehaviorSequence

Matrix = NDArray[np.float32]

MOST_ITEMS = 12_288
"""Items that EASE knows: three matrices of these take 1.8 GB, and an inversion about half a minute of one core."""

_FEW_ITEMS = 4_096
"""Items by which λ is chosen at first: inverting them takes seconds."""

_MOST_USERS = 1_000
_AT_ONCE = 256


@dataclass(frozen=True)
class EASE:
    """Settings of EASE.

    Attributes:
        penalty: λ of the ridge regression.
        last: The newest behaviors that count.
        decay: Weight of each beside the next newer one.
    """

    penalty: float = 800.0
    last: int = 50
    decay: float = 0.95


PENALTIES = tuple(
    map(float, (10, 30, 60, 100, 180, 300, 500, 800, 1_300, 2_000, 3_000, 4_500, 7_000, 10_000, 15_000, 22_000, 32_000))
)
"""Values of λ."""

RECENCY: Grid = {"last": LASTS, "decay": DECAYS}


def known_items(log: TrainLog, most: int) -> Rows:
    """Return the items that EASE knows, rows of the catalog in ascending order, [M]: those with most train events."""
    return np.sort(log.popular[:most])


def gram(log: TrainLog, items: Rows) -> Matrix:
    """Return how many train users have both of two items, [M, M]."""
    places = np.full(len(log.catalog), -1, dtype=np.int64)
    places[items] = np.arange(len(items))
    columns, kept = places[log.items], places[log.items] >= 0
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    has = csr_array((ones, (log.users[kept], columns[kept])), shape=(log.num_users, len(items)))
    has.data[:] = 1.0  # its duplicates were summed
    return np.asarray((has.T @ has).toarray())


def item_weights(together: Matrix, penalty: float) -> Matrix:
    """Return the item weights of EASE (equation 8), [M, M]: −P / diag(P) with a diagonal of zeros."""
    regular = torch.from_numpy(together).clone()
    regular.diagonal().add_(penalty)
    inverse: Matrix = torch.cholesky_inverse(torch.linalg.cholesky(regular)).numpy()
    del regular
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0.0)
    return inverse


def fit(log: TrainLog, settings: EASE, most_items: int = MOST_ITEMS) -> FloorRecommender:
    """Return EASE with these settings."""
    items = known_items(log, most_items)
    weights = item_weights(gram(log, items), settings.penalty)

    def score(histories: Sequence[BehaviorSequence]) -> Iterator[Scored]:
        weighed = Histories(histories, log.catalog, settings.last).matrix(settings.last, settings.decay)
        return _scored(weighed, weights, items)

    return FloorRecommender(log, score)


def tune(log: TrainLog, choice: Choice, effort: Effort | None = None, most_items: int = MOST_ITEMS) -> Tuned[EASE]:
    """Return the settings that find most on the users chosen by.

    λ walks along its values with recency chosen anew for each; with more than a few thousand items first on the most
    frequent of them, and then from there on all that EASE knows, where one inversion of these fits into the time left.
    """
    clock = Clock("EASE", effort or Effort())
    few, most = (min(each, most_items, len(log.catalog)) for each in (_FEW_ITEMS, MOST_ITEMS))
    trials = _Trials(log, choice.thinned(_MOST_USERS), few, clock)
    best, quality = trials.walk(EASE())
    if few < most and trials.inversion_s * (most / few) ** 3 < clock.left_s:
        best, quality = _Trials(log, choice.thinned(_MOST_USERS), most, clock).walk(best)
    return clock.result(best, quality)


class _Trials:
    """How good settings are on some users, with so many items known."""

    def __init__(self, log: TrainLog, choice: Choice, num_items: int, clock: Clock) -> None:
        self._log = log
        self._choice = choice
        self._clock = clock
        self._items = known_items(log, num_items)
        self._together = gram(log, self._items)
        self._histories = Histories(choice.histories, log.catalog)
        self._seen = seen_rows(choice.histories, log)
        self._wanted = Wanted(choice, log.catalog)
        self.inversion_s = 0.0

    def walk(self, start: EASE) -> tuple[EASE, float]:
        """Walk along λ while that finds more; returns the best settings and what they find."""
        recency: dict[str, Any] = {"last": start.last, "decay": start.decay}

        @cache
        def best_of(penalty: float) -> tuple[float, EASE]:
            search = Search(RECENCY, self._quality_of(penalty), self._clock)
            recency.update(search.descend(recency))
            return search.of(recency), EASE(penalty, recency["last"], recency["decay"])

        at = PENALTIES.index(start.penalty)
        quality, best = best_of(PENALTIES[at])
        for step in (1, -1):
            place = at + step
            while 0 <= place < len(PENALTIES) and not self._clock.is_up:
                other, settings = best_of(PENALTIES[place])
                if other <= quality:
                    break
                quality, best, place = other, settings, place + step
        return best, quality

    def _quality_of(self, penalty: float) -> Callable[[Point], float]:
        started = self._clock.cpu_s
        weights = item_weights(self._together, penalty)
        self.inversion_s = self._clock.cpu_s - started

        def quality(point: Point) -> float:
            weighed = self._histories.matrix(point["last"], point["decay"])
            recalls = [self._recall(weighed, weights, exclude_seen=exclude) for exclude in self._choice.exclude_seen]
            return sum(recalls) / len(recalls)

        return quality

    def _recall(self, weighed: csr_array, weights: Matrix, *, exclude_seen: bool) -> float:
        choice, log = self._choice, self._log
        hidden = self._seen if exclude_seen else repeat(None)
        masks = None if choice.at is None else choice.at.masks(log.catalog.keys)
        return self._wanted.recall(
            ranked_rows(_scored(weighed, weights, self._items), choice.cutoff, log, hidden, masks)
        )


def _scored(weighed: csr_array, weights: Matrix, items: Rows) -> Iterator[Scored]:
    """Yield for each row the known items and their scores."""
    known = weighed[:, items]
    for start in range(0, known.shape[0], _AT_ONCE):
        for scores in known[start : start + _AT_ONCE] @ weights:
            yield items, scores
