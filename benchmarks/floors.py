"""A task → the library's floors, tuned on whom the task chooses by and fitted to what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.tasks import Stage, Task
from mind_dist.evaluation import Recommender
from mind_dist.evaluation.floors import FLOORS, Choice, TrainLog, tuned


@dataclass(frozen=True)
class Fitted:
    """A floor, tuned and fitted.

    Attributes:
        recommender: What it recommends.
        settings: What it was tuned to.
        tuning_s: Processor seconds that took.
    """

    recommender: Recommender
    settings: dict[str, Any]
    tuning_s: float


def fitted(name: str, task: Task, stage: Stage) -> Fitted:
    """Return a floor at its best for a task, counted from a stage's train split."""
    choosing, log = TrainLog.read(task.choosing.dataset), TrainLog.read(stage.dataset)
    found = tuned(name, choosing, choice_by(task))
    about = asdict(found.settings) | {"valid": round(found.quality, 4), "trials": found.num_trials}
    return Fitted(FLOORS[name].fit(log, found.settings), about, found.cpu_s)


def choice_by(task: Task) -> Choice:
    """Return what a task chooses by, as `Task.quality` does: mean recall, which of one target is the hit rate."""
    if task.protocol == "leave-one-out":
        return Choice(task.choosing.users, cutoff=10, exclude_seen=(True,))
    return Choice(task.choosing.users)
