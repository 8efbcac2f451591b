"""A dataset → its floors, tuned on the valid users within a time: what a model has to beat."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

from mind_dist.evaluation.floors import FLOORS, Choice, Effort, TrainLog, tuned
from mind_dist.evaluation.recommenders import Recommender
from mind_dist.strict_json import from_json, to_json

_ORDER = ("popularity", "recent_popularity", "tgh", "ease", "itemknn")
"""Those that take least first: what they leave of the time is the others'."""


@dataclass(frozen=True)
class TunedFloor:
    """A floor as it was tuned.

    Attributes:
        settings: What was chosen.
        valid_recall: What that finds on the valid users it was chosen by: recall@50, the mean of history kept and removed.
        num_trials: Settings that were tried; none where there are no valid users, and its defaults are taken.
        finished: False where the time was up before the search ended.
        cpu_s: Processor seconds it took.
    """

    settings: dict[str, Any]
    valid_recall: float
    num_trials: int
    finished: bool
    cpu_s: float = dataclasses.field(default=0.0, compare=False)


@dataclass(frozen=True)
class Fitted:
    """A floor, tuned and fitted.

    Attributes:
        tuning: How it was tuned.
        recommender: What it recommends.
    """

    tuning: TunedFloor
    recommender: Recommender


def fitted(
    name: str, log: TrainLog, choice: Choice, effort: Effort | None = None, *, reporting: TrainLog | None = None
) -> Fitted:
    """Return a floor at its best.

    Args:
        name: Of `FLOORS`.
        log: What it is counted from.
        choice: The valid users.
        effort: How long tuning may take; fitting comes on top.
        reporting: What it is counted from once it is tuned, where that is more.
    """
    found = tuned(name, log, choice, effort)
    settings = from_json(to_json(asdict(found.settings)))  # as a report has them once it is read again
    tuning = TunedFloor(settings, found.quality, found.num_trials, found.finished, found.cpu_s)
    return Fitted(tuning, FLOORS[name].fit(reporting or log, found.settings))


def opponents(log: TrainLog, choice: Choice, effort: Effort) -> dict[str, Fitted]:
    """Return every floor that a log allows, by its title; `effort` is how long tuning all of them may take together."""
    names = [name for name in _ORDER if log.has_times or not FLOORS[name].needs_times]
    found: dict[str, Fitted] = {}
    left_s = effort.max_cpu_s
    for place, name in enumerate(names):
        share = dataclasses.replace(effort, max_cpu_s=max(0.0, left_s) / (len(names) - place))
        found[FLOORS[name].title] = fitted(name, log, choice, share)
        left_s -= found[FLOORS[name].title].tuning.cpu_s
    return found
