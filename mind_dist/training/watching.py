"""The valid users' recall, every so many steps → which version is the best, and whether a further cycle is worth it.

What is measured, and how, is the caller's: training does not know evaluation. Every rank measures a share of the users, all
agree on the sums, and so on what follows from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from mind_dist.checkpoint import UnsavedVersion, WatchState
from mind_dist.config import WatchConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.keys import EventFeatures
from mind_dist.training.collectives import Collectives
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import RECALL, RECALL_REMOVED, Look
from mind_dist.training.schedule import Cycle

FEWEST_USERS = 30
"""Valid users below which a difference in recall is chance, and the run's length is not chosen by it."""

MOST_CYCLES = 8
"""Cycles that a run may have: 255 times the first."""


class ValidUsers(Protocol):
    """The users that a run is watched by."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def recall_sums(self, version: UnsavedVersion, part: int, num_parts: int) -> tuple[float, float, int]:
        """Return sums over a part of the users: recall with the history kept, the same with it removed, and 1."""
        ...


OpenValidUsers = Callable[[PreparedDataset, int, EventFeatures], ValidUsers]
"""A prepared dataset, the most users wanted, and what is read of each event → its valid users.

It travels to the workers: a function of a module."""


class Watch:
    """Looks at a run, and keeps in its state what came of it.

    Args:
        run: The run.
        users: Whose recall.
        config: When to stop.
        every: Steps between two looks; 0 for four in each cycle, or eight in a run whose length is set.
        ranks: The other ranks.
    """

    def __init__(
        self, run: TrainingRun, users: ValidUsers, config: WatchConfig, every: int, ranks: Collectives
    ) -> None:
        self._run = run
        self._users = users
        self._config = config
        self._every = every
        self._ranks = ranks
        self._end = run.num_steps()

    @property
    def is_over(self) -> bool:
        """Whether the run has been trained for long enough."""
        return self._run.watch.is_over

    def is_due(self) -> bool:
        """Tell whether it is time for a look after the step just done."""
        step, cycle = self._run.step, self._cycle()
        ends = cycle is not None and step == cycle.end
        if self._every:
            return ends or step % self._every == 0
        return cycle is not None and step in cycle.quarters

    def look(self) -> Look:
        """Evaluate the run as it is, and decide what follows. Collective."""
        started_s = time.monotonic()
        sums = self._users.recall_sums(self._run.unsaved(), self._ranks.rank, self._ranks.world_size)
        kept, removed, num_users = self._ranks.sum(sums)
        recall, recall_removed = kept / num_users, removed / num_users
        before, took_s = self._run.watch, time.monotonic() - started_s
        look = Look(self._run.step, recall, recall_removed, _quality(recall, recall_removed) > before.best, took_s)
        self._run.watch = taken(before, look, self._config, self._ended_cycle())
        self._run.metrics |= {RECALL: recall, RECALL_REMOVED: recall_removed}
        return look

    def _ended_cycle(self) -> Cycle | None:
        """Return the cycle that has ended with the step just done."""
        cycle = self._cycle() if self._run.cycles is not None else None
        return cycle if cycle is not None and cycle.end == self._run.step else None

    def _cycle(self) -> Cycle | None:
        """Return the cycle of the step just done, the half of a run whose length is set, or None where nobody knows."""
        step = max(0, self._run.step - 1)
        if self._run.cycles is not None:
            return self._run.cycles.of(step)
        if self._end is None:
            return None
        half = max(1, self._end // 2)
        return Cycle(0, half) if step < half else Cycle(half, self._end)


def taken(state: WatchState, look: Look, config: WatchConfig, ended: Cycle | None) -> WatchState:
    """Return what is known after a look, with which a cycle may have ended."""
    if look.is_best:
        state = replace(state, best=_quality(look.recall, look.recall_removed), best_step=look.step)
    state = replace(state, looked_at=look.step)
    if ended is None:
        return state
    gained = state.best > state.before * (1 + config.min_gain) or not state.best
    num_without_gain = 0 if gained else state.num_without_gain + 1
    was_last = ended.end >= state.first_cycle * ((1 << MOST_CYCLES) - 1)
    is_over = was_last or num_without_gain >= config.patience
    return replace(state, before=state.best, num_without_gain=num_without_gain, is_over=is_over)


def _quality(recall: float, recall_removed: float) -> float:
    """Return what versions are compared by."""
    return (recall + recall_removed) / 2
