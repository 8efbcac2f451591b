"""ItemKNN: what came near the newest items of a history in other users' events.

An item j scores Σ_i decay^age(i) · C_ij / (n_i^source_power · n_j^target_power) over the newest behaviors i, where n counts
train events and C_ij those in which j came at most `window` steps after i, each 1 / steps^lag_power; those in which it came
before i count too, `backward` times. All matrices are sparse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

from scipy.sparse import csr_array

from mind_dist.evaluation.floors.neighbors import forward_counts, num_pairs
from mind_dist.evaluation.floors.ranking import FloorRecommender, Scored, ranked_rows, seen_rows
from mind_dist.evaluation.floors.recency import DECAYS, LASTS, Histories
from mind_dist.evaluation.floors.train_log import TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Clock, Effort, Grid, Point, Tuned, Wanted, search
from mind_dist.records import BehaviorSequence

MOST_PAIRS = 1 << 27
"""Pairs of events that are counted; windows with more are not tried. Their matrix takes 8 bytes each at most."""


@dataclass(frozen=True)
class ItemKNN:
    """Settings of ItemKNN.

    Attributes:
        last: The newest behaviors that count.
        decay: Weight of each beside the next newer one.
        target_power: Weights are divided by the recommended item's count to this power,
        source_power: and by the behavior's to this.
        window: Most steps between two items.
        lag_power: A pair counts 1 / steps to this power.
        backward: Weight of pairs in which the recommended item came first.
    """

    last: int = 10
    decay: float = 0.9
    target_power: float = 0.3
    source_power: float = 0.5
    window: int = 10
    lag_power: float = 0.0
    backward: float = 0.0


GRID: Grid = {
    "last": LASTS,
    "decay": DECAYS,
    "target_power": (-0.2, -0.1, 0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    "source_power": (-0.5, -0.25, 0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.25),
    "backward": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3),
    "lag_power": (-0.25, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5),
    "window": (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200),
}
STARTS = (
    ItemKNN(),
    ItemKNN(5, 0.7, 0.2, 0.0, 5),
    ItemKNN(50, 0.97, 0.4, 0.75, 30, 0.5, 0.3),
    ItemKNN(200, 0.97, 0.5, 0.6, 30, 0.5, 1.0),
)


def fit(log: TrainLog, settings: ItemKNN) -> FloorRecommender:
    """Return ItemKNN with these settings."""
    counts = forward_counts(log, settings.window, settings.lag_power)
    if settings.backward:
        counts = counts + settings.backward * counts.T.tocsr()
    counts.data *= (log.counts**-settings.target_power)[counts.indices]
    sources = log.counts**-settings.source_power

    def score(histories: Sequence[BehaviorSequence]) -> Iterator[Scored]:
        weighed = Histories(histories, log.catalog, settings.last).matrix(settings.last, settings.decay, sources)
        return each_row(weighed @ counts)

    return FloorRecommender(log, score)


def tune(log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[ItemKNN]:
    """Return the settings that find most on the users chosen by."""
    clock = Clock("ItemKNN", effort or Effort())
    grid = dict(GRID) | {"window": [each for each in GRID["window"] if num_pairs(log, each) <= MOST_PAIRS] or [1]}
    counts = lru_cache(maxsize=3)(lambda window, lag_power: forward_counts(log, window, lag_power))
    starts = [dataclasses.asdict(start) | {"window": min(start.window, grid["window"][-1])} for start in STARTS]
    best, quality = search(grid, starts, lambda some: _Trials(log, some, counts).quality, choice, clock)
    return clock.result(ItemKNN(**best), quality)


def each_row(scores: csr_array) -> Iterator[Scored]:
    """Yield the items and scores of each row."""
    for start, stop in zip(scores.indptr[:-1], scores.indptr[1:], strict=True):
        yield scores.indices[start:stop], scores.data[start:stop]


class _Trials:
    """How good settings are on some users; what settings have in common is computed once."""

    def __init__(self, log: TrainLog, choice: Choice, counts: Callable[[int, float], csr_array]) -> None:
        self._log = log
        self._choice = choice
        self._counts = counts
        self._histories = Histories(choice.histories, log.catalog)
        self._seen = seen_rows(choice.histories, log)
        self._wanted = Wanted(choice, log.catalog)
        self._raw = lru_cache(maxsize=2)(self._compute_raw)

    def quality(self, point: Point) -> float:
        settings = ItemKNN(**point)
        about = (settings.last, settings.decay, settings.source_power, settings.window, settings.lag_power)
        scores = self._raw(*about, backward=False)
        if settings.backward:
            scores = scores + settings.backward * self._raw(*about, backward=True)
        scaled = scores.data * (self._log.counts**-settings.target_power)[scores.indices]
        scores = csr_array((scaled, scores.indices, scores.indptr), shape=scores.shape)
        recalls = [self._recall(scores, exclude_seen=exclude) for exclude in self._choice.exclude_seen]
        return sum(recalls) / len(recalls)

    def _recall(self, scores: csr_array, *, exclude_seen: bool) -> float:
        choice, log = self._choice, self._log
        hidden = self._seen if exclude_seen else repeat(None)
        masks = None if choice.at is None else choice.at.masks(log.catalog.keys)
        return self._wanted.recall(ranked_rows(each_row(scores), choice.cutoff, log, hidden, masks))

    def _compute_raw(
        self, last: int, decay: float, source_power: float, window: int, lag_power: float, *, backward: bool
    ) -> csr_array:
        weighed = self._histories.matrix(last, decay, self._log.counts**-source_power)
        counts = self._counts(window, lag_power)
        # C Hᵀ turned round costs what H Cᵀ does, and C need not be stored turned round
        return (counts @ weighed.T.tocsr()).T.tocsr() if backward else weighed @ counts
