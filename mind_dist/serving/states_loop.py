"""The states' updater in a thread of its own, and what it tells of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mind_dist.config import ServingConfig
from mind_dist.errors import MindDistError
from mind_dist.observability import Metrics
from mind_dist.serving import health
from mind_dist.serving.work_loop import Beat, WorkLoop
from mind_dist.states.report import StatesReport
from mind_dist.states.updater import StatesUpdater

SOURCE = "states"
"""As whom it tells problems."""

_LOOK_EVERY_S = 5.0
_LAG_TIMEOUT_S = 2.0
"""How long a step may be held up by asking for the lag."""


@dataclass(frozen=True)
class StatesStatus:
    """What a loop has done since it started.

    Attributes:
        partitions: Partitions owned now.
        stopped: Those of which nothing is taken until an operator acts, and why.
        num_applied: Records applied.
        num_skipped: Records delivered again that were applied before.
        num_poison: Records dead-lettered.
        num_ignored: Events of types that are not kept.
        problem: Why it is not getting on now; empty when it is.
    """

    partitions: list[int]
    stopped: dict[int, str]
    num_applied: int
    num_skipped: int
    num_poison: int
    num_ignored: int
    problem: str


class StatesLoop:
    """Keeps users' states until stopped.

    Args:
        build: Makes the updater; its heartbeat is given.
        config: Times.
        metrics: Where numbers go.
        problems: Where it tells what is wrong.
        why_unowned: Asked now and then while it has owned no partition for long: returns what is wrong with that, or
            nothing where other updaters own them all.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        build: Callable[[Beat], StatesUpdater],
        config: ServingConfig,
        metrics: Metrics,
        *,
        problems: health.Problems,
        why_unowned: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._problems = problems
        self._clock = clock
        self._unowned = health.UnownedWatch(config.degraded_after_s, why_unowned, clock())
        self._idle = health.idle_watches(config.degraded_after_s)
        self._lags = health.LagWatch(config.degraded_after_s)
        self._look_at = clock()
        self._failing = ""
        self._found: dict[str, str] = {}
        self._partitions: list[int] = []
        self._stopped: Mapping[int, str] = {}
        self._lag: Mapping[int, int] = {}
        self._num_partitions = 0
        self._done = StatesReport()
        self._loop = WorkLoop(
            "the states' updater", build, self._advance, config, on_problem=self._note_failure, clock=clock
        )
        self.start, self.stop, self.check = self._loop.start, self._loop.stop, self._loop.check

    def status(self) -> StatesStatus:
        """Return what was done so far."""
        done = self._done
        return StatesStatus(
            self._partitions,
            dict(self._stopped),
            done.num_applied,
            done.num_skipped,
            done.num_poison,
            done.num_ignored,
            self._loop.problem,
        )

    @property
    def lag(self) -> int:
        """How many records are still to be applied of the partitions owned, but for stopped ones, as of the last look."""
        return sum(lag for partition, lag in self._lag.items() if partition not in self._stopped)

    @property
    def num_partitions(self) -> int:
        """Partitions that users are kept in, owned or not; 0 before that is known."""
        return self._num_partitions

    def _advance(self, updater: StatesUpdater) -> None:
        started = self._clock()
        report = updater.step(self._config.poll_timeout_s)
        if report.num_records:
            self._metrics.observe("mind_dist_update_seconds", self._clock() - started)
        self._done = self._done.plus(report)
        report.emit(self._metrics)
        now = self._clock()
        self._idle[health.SKIPPING_EVERYTHING].note(report.num_records, report.num_skipped, now)
        self._idle[health.IGNORING_EVERYTHING].note(report.num_records, report.num_ignored, now)
        self._partitions, self._stopped = sorted(updater.partitions), updater.stopped
        self._num_partitions = updater.num_partitions
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            updater.look_at_stopped()
            self._look(updater)

    def _look(self, updater: StatesUpdater) -> None:
        """Tell what is wrong though no step fails: a poll finds nothing, too, when the broker is gone."""
        problem = ""
        try:
            self._report_lag(updater.lag(_LAG_TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 - no fault of a mere report may stop the events
            self._metrics.add("mind_dist_lag_report_failures")
            problem = str(error) if isinstance(error, MindDistError) else f"{type(error).__name__}: {error}"
        now = self._clock()
        self._lags.note({p: lag for p, lag in self._lag.items() if p not in self._stopped}, now)
        stopped = "; ".join(f"partition {p}: {reason}" for p, reason in sorted(self._stopped.items()))
        found = {
            health.NO_PARTITIONS: self._unowned.problem(len(self._partitions), now),
            **{name: watch.problem(now) for name, watch in self._idle.items()},
            health.PARTITIONS_STOPPED: f"{stopped}: see python -m jobs.partitions" if stopped else "",
            health.LAG_GROWING: self._lags.problem(now),
            health.LAG_UNKNOWN: problem,
        }
        self._found = {name: text for name, text in found.items() if text}
        self._tell()

    def _report_lag(self, lag: Mapping[int, int]) -> None:
        for partition in self._lag.keys() - lag.keys():
            self._metrics.set("mind_dist_lag_records", 0, partition=str(partition))  # it is its next owner's now
        for partition, count in lag.items():
            self._metrics.set("mind_dist_lag_records", count, partition=str(partition))
        self._lag = lag

    def _note_failure(self, problem: str) -> None:
        self._failing = problem
        self._tell()

    def _tell(self) -> None:
        failing = {health.UPDATE_FAILING: self._failing} if self._failing else {}
        self._problems.report(SOURCE, {**self._found, **failing})
