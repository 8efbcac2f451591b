"""A rank's line to the driver."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import ray

from mind_dist.training.loop import StepReport
from mind_dist.training.run_monitor import Look, TrainProgress, Wishes

_TELL_EVERY_S = 0.5
"""Time between two words to the driver."""


class Teller:
    """A rank's line to the driver, which tells each of them when to stop and the first when to save: never waits for it.

    Args:
        monitor: Handle of the RunMonitor.
        rank: This rank; the first one tells how far the run is.
        save_every_s: Time after the last save when it is time for another, without anybody asking; 0 for never.

    Attributes:
        num_steps: Where the run will end, None where that is not known.
    """

    def __init__(self, monitor: Any, rank: int, save_every_s: float = 0.0) -> None:
        self.num_steps: int | None = None
        self._monitor = monitor
        self._rank = rank
        self._save_every_s = save_every_s
        self._progress: TrainProgress | None = None
        self._num_examples = 0
        self._told_s = self._saved_s = time.monotonic()
        self._answer: Any = None
        self._wishes = Wishes()
        self._saves_done = 0

    def add(self, report: StepReport) -> None:
        """Take note of a step."""
        if report.num_examples and self._rank == 0:
            self._num_examples += report.num_examples
            self._progress = TrainProgress(report.step, self.num_steps, report.loss, 0.0)

    def look(self, look: Look) -> None:
        """Tell the driver what came of an evaluation, at once."""
        if self._rank == 0:
            self._monitor.look.remote(look)

    def should_stop(self) -> bool:
        """Tell the driver how far the run is, if it is time; return whether it has asked to stop."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._wishes = ray.get(self._answer)
            self._answer = None
        elapsed_s = time.monotonic() - self._told_s
        if self._answer is None and elapsed_s >= _TELL_EVERY_S:
            rate = self._num_examples / elapsed_s
            progress = self._progress and dataclasses.replace(self._progress, examples_per_s=rate)
            self._answer = self._monitor.tell.remote(progress)
            self._told_s, self._num_examples = time.monotonic(), 0
        return self._wishes.stop

    def should_save(self) -> bool:
        """Tell whether it is time for a save, or one was asked for; the first rank alone says so, for all."""
        is_time = bool(self._save_every_s) and time.monotonic() - self._saved_s >= self._save_every_s
        return self._rank == 0 and (is_time or self._wishes.save > self._saves_done)

    def saved(self) -> None:
        """Take note of a save, and tell whoever asked for it."""
        self._saved_s = time.monotonic()
        if self._rank == 0 and self._wishes.save > self._saves_done:
            self._saves_done = self._wishes.save
            self._monitor.saved.remote(self._saves_done)
