"""Most popular: the items with most train events for everybody, with nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass

from mind_dist.evaluation.floors.train_log import TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Clock, Effort, Tuned
from mind_dist.evaluation.recommenders import ExactRecommender, popularity


@dataclass(frozen=True)
class Popularity:
    """It has no settings."""


def fit(log: TrainLog, _settings: Popularity) -> ExactRecommender:
    """Return the most popular items."""
    return popularity(log.catalog)


def tune(log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[Popularity]:
    """Return how good it is."""
    clock = Clock("popularity", effort or Effort())
    quality = choice.quality(fit(log, Popularity()))
    clock.count(quality)
    return clock.result(Popularity(), quality)
