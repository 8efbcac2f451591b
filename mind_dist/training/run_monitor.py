"""Between driver, controller and rank 0: progress one way, wishes to stop or to save the other.

No torch: its actor starts at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mind_dist.training.pulse import Hang, Pulse, Pulses

VALID, PROGRESSIVE = "valid", "progressive"
"""Whose recall a look is of: that of the dataset's valid users, or of the events of a log that come next."""

RECALL, RECALL_REMOVED = f"{VALID}_recall@50", f"{VALID}_recall@50_removed"
"""Metrics of a version that was evaluated: recall of the valid users with the history kept, and with it removed. The best
version is that with the largest mean of both: users come back to some items, and are to find others."""

_MOST_UNEVEN = 1.1
"""The largest share of a worker, over the mean of all, that is not worth a warning."""


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        step: Steps done.
        num_steps: The step at which it will end, None where that is not known.
        loss: Of the last step.
        examples_per_s: Of all workers, since the last report.
    """

    step: int
    num_steps: int | None
    loss: float
    examples_per_s: float


@dataclass(frozen=True)
class Fallback:
    """Workers went on from a version because newer ones are damaged.

    Attributes:
        version_uri: Directory of the version.
        damaged: Each newer one, and what is wrong with it.
    """

    version_uri: str
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Deal:
    """What each worker has to train.

    Attributes:
        partitions: Buckets or partitions of each worker.
        examples: Their examples; none where a log does not say.
    """

    partitions: tuple[int, ...]
    examples: tuple[int, ...] = ()

    def warning(self) -> str:
        """Return what is wrong with it, empty where it is even."""
        idle = sum(count == 0 for count in self.partitions)
        if idle:
            return f"{idle} of {len(self.partitions)} workers have nothing to train: there are too few partitions"
        shares = self.examples or self.partitions
        if max(shares) * len(shares) > _MOST_UNEVEN * sum(shares):
            return "the workers have unequal shares and wait for the one with the most"
        return ""


@dataclass(frozen=True)
class Look:
    """One evaluation of a run, by its valid users or by the events that come next.

    Attributes:
        step: Steps done.
        recall: Recall@50 with the history among the candidates.
        recall_removed: The same without it.
        is_best: Whether the mean of both was never larger.
        took_s: Seconds that it took.
        of: `VALID` or `PROGRESSIVE`.
    """

    step: int
    recall: float
    recall_removed: float
    is_best: bool
    took_s: float
    of: str = VALID

    @property
    def metrics(self) -> dict[str, float]:
        """What is reported of it, by name."""
        return {f"{self.of}_recall@50": self.recall, f"{self.of}_recall@50_removed": self.recall_removed}


@dataclass(frozen=True)
class Wishes:
    """What rank 0 is asked for.

    Attributes:
        stop: End after this step, with a save.
        save: Number of the newest save that was asked for and has not been done; 0 for none.
    """

    stop: bool = False
    save: int = 0


@dataclass(frozen=True)
class RunState:
    """What rank 0 has told.

    Attributes:
        progress: The last progress; None before the first step.
        fallback: The last fallback, if there was one.
        deal: What each worker has to train; None until that is known.
        num_watching: Valid users that watch the run; None until that is known.
        looks: What they have said.
        hang: The rank that hangs now.
        failures: Why each group of workers that was lost has failed.
        saves_asked: Why each save was asked for.
    """

    progress: TrainProgress | None = None
    fallback: Fallback | None = None
    deal: Deal | None = None
    num_watching: int | None = None
    looks: tuple[Look, ...] = ()
    hang: Hang | None = None
    failures: tuple[str, ...] = ()
    saves_asked: tuple[str, ...] = ()


class RunMonitor:
    """What the driver, Ray Train's controller and rank 0 know of each other; runs as an actor."""

    def __init__(self) -> None:
        self._state = RunState()
        self._wishes = Wishes()
        self._pulses = Pulses()
        self._failed: tuple[str, tuple[tuple[int, str], ...]] = ("", ())

    def tell(self, progress: TrainProgress | None) -> Wishes:
        """Take the progress; return what is asked for."""
        self._state = replace(self._state, progress=progress or self._state.progress)
        return self._wishes

    def fall_back(self, fallback: Fallback) -> None:
        """Take note of a fallback."""
        self._state = replace(self._state, fallback=fallback)

    def begin(self, deal: Deal, num_watching: int) -> None:
        """Take note of what each worker has to train, and of the number of valid users that watch."""
        self._state = replace(self._state, deal=deal, num_watching=num_watching)

    def look(self, look: Look) -> None:
        """Take note of an evaluation."""
        self._state = replace(self._state, looks=(*self._state.looks, look))

    def state(self) -> RunState:
        """Return what has been told."""
        hang = None if self._pulses.group == self._failed[0] else self._pulses.hang(time.monotonic())
        return replace(self._state, hang=hang)

    def hear(self, pulse: Pulse) -> None:
        """Take note of a sign of life."""
        self._pulses.hear(pulse, time.monotonic())

    def fail(self, silent: tuple[int, ...], errors: Mapping[int, str]) -> None:
        """Take note of why a group of workers has failed.

        Args:
            silent: Ranks that have not answered Ray for too long.
            errors: What each rank that has failed raised, or died of.
        """
        failed = (self._pulses.group, tuple(sorted(errors.items())))
        if failed == self._failed:  # Ray tells it anew at each look until it acts
            return
        self._failed = failed
        hang = self._pulses.why(time.monotonic(), silent)
        told = [str(hang)] if hang else [f"worker {rank}: {error}" for rank, error in failed[1]]
        self._state = replace(self._state, failures=(*self._state.failures, "; ".join(told)))

    def stop(self) -> None:
        """Ask the run to stop."""
        self._wishes = replace(self._wishes, stop=True)

    def ask_to_save(self, why: str) -> None:
        """Ask for a save."""
        self._state = replace(self._state, saves_asked=(*self._state.saves_asked, why))
        self._wishes = replace(self._wishes, save=len(self._state.saves_asked))

    def saved(self, number: int) -> None:
        """Take note that what was asked for up to a number is done."""
        if number >= self._wishes.save:
            self._wishes = replace(self._wishes, save=0)

    def has_saved(self) -> bool:
        """Tell whether all that was asked for is done."""
        return not self._wishes.save
