"""A task → the library's floors, tuned on whom the task chooses by and fitted to what it reports."""

from __future__ import annotations

from benchmarks.tasks import Stage, Task
from mind_dist.evaluation import opponents
from mind_dist.evaluation.floors import Choice, Effort, TrainLog
from mind_dist.evaluation.opponents import Fitted

_MAX_CPU_S = 300.0
"""Processor seconds for one floor: none but EASE with ten thousand items and more needs a half of it."""


def fitted(name: str, task: Task, stage: Stage) -> Fitted:
    """Return a floor at its best for a task, counted from a stage's train split."""
    choosing, reporting = TrainLog.read(task.choosing.dataset), TrainLog.read(stage.dataset)
    return opponents.fitted(name, choosing, choice_by(task), Effort(_MAX_CPU_S), reporting=reporting)


def choice_by(task: Task) -> Choice:
    """Return what a task chooses by, as `Task.quality` does: mean recall, which of one target is the hit rate."""
    if task.protocol == "leave-one-out":
        return Choice(task.choosing.users, cutoff=10, exclude_seen=(True,))
    return Choice(task.choosing.users)
