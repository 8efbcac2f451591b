"""Settings → the best of them for the valid users, by successive halving (arXiv 1502.07943).

Every trial is trained for some seconds; the better half goes on for twice as long in all, and so on, until one is left,
which is trained until nothing better comes. All of it is kept in a directory: what was done is not done again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.neural.model import Settings
from benchmarks.neural.training import Look, Trial
from benchmarks.tasks import Task

Space = Mapping[str, Sequence[Any]]
"""Name of a setting → its values to try."""


@dataclass(frozen=True)
class Plan:
    """How long is searched and trained, in processor seconds.

    Attributes:
        num_trials: Settings to begin with.
        first_s: Training of each of them.
        limit_s: Training of the last, at most.
        every_s: Between two looks at the valid users.
        patience: Looks without a better one after which the last is trained no longer.
        seed: Of all trainings.
    """

    num_trials: int
    first_s: float
    limit_s: float
    every_s: float
    patience: int
    seed: int


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        trial: The best one, as it was when it was best.
        tried: Each trial's settings and looks, in the order they were drawn.
    """

    trial: Trial
    tried: list[tuple[Settings, list[Look]]]


def draw(base: Settings, space: Space, num_trials: int) -> list[Settings]:
    """Return settings to try, the base first, then others drawn from the space; always the same, all different."""
    generator = random.Random(0)
    found = {base: None}
    while len(found) < num_trials:
        found[replace(base, **{name: generator.choice(values) for name, values in space.items()})] = None
    return list(found)


def search(
    task: Task, candidates: Sequence[Settings], plan: Plan, directory: Path, report: Callable[[str], None]
) -> Found:
    """Return the best trial of those settings.

    Args:
        task: Who is trained on and chosen by.
        candidates: The settings.
        plan: How long.
        directory: Where trials are kept, and found again.
        report: Told of every look.
    """
    at = {settings: directory / f"trial-{number:02d}" for number, settings in enumerate(candidates)}
    looks: dict[Settings, list[Look]] = {}
    left, until_s = list(candidates), plan.first_s
    while len(left) > 1:
        for settings in left:
            trial = _train(task, settings, replace(plan, limit_s=until_s, patience=0), at[settings], report)
            looks[settings] = trial.looks
        left = sorted(left, key=lambda each: -max(look.valid for look in looks[each]))[: (len(left) + 1) // 2]
        report(f"after {until_s:.0f} s left: {', '.join(at[settings].name for settings in left)}")
        until_s *= 2
    best = _train(task, left[0], plan, at[left[0]], report)
    best.recall_best(at[left[0]])
    looks[left[0]] = best.looks
    return Found(best, list(looks.items()))


def _trained_for(cpu_s: float, trial: Trial) -> bool:
    return trial.cpu_s >= cpu_s


def _train(task: Task, settings: Settings, plan: Plan, directory: Path, report: Callable[[str], None]) -> Trial:
    """Return a trial trained as long as the plan says, or until its patience (0 for none) ends."""
    trial = Trial(task.choosing, settings, plan.seed)
    trial.restore(directory)
    if not trial.looks:
        report(f"{directory.name}: {asdict(settings)}")
    while trial.cpu_s < plan.limit_s and not (plan.patience and trial.num_looks_since_best >= plan.patience):
        until_s = min(plan.limit_s, trial.cpu_s + plan.every_s)
        loss = trial.advance(partial(_trained_for, until_s))
        look = trial.look(loss, task.quality)
        trial.save(directory)
        report(
            f"{directory.name}: {look.cpu_s:.0f} s  {look.epochs:.1f} epochs  loss {loss:.3f}  valid {look.valid:.4f}"
        )
    return trial
