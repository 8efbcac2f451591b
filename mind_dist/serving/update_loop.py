"""A thread around an updater: steps, heartbeats, back-off, health."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mind_dist.config import ServingConfig
from mind_dist.errors import MindDistError, PoisonLimitExceeded, PositionLost, UnreadableBatch, UpdaterStopped
from mind_dist.serving import health
from mind_dist.serving.updater import UpdateStep, UserVectorUpdater

logger = logging.getLogger(__name__)

OnStep = Callable[[UpdateStep], None]

_FATAL = (PoisonLimitExceeded, PositionLost, UnreadableBatch)
"""Errors that trying again does not mend."""

_FIRST_BACKOFF_S = 0.1
_LAG_EVERY_S = 5.0
_FRESHNESS_KEPT = 10_000


@dataclass(frozen=True)
class LoopStatus:
    """What a loop has done since it started.

    Attributes:
        model_version: The version it keeps fresh.
        num_partitions: Partitions it owns now.
        num_applied: Events applied.
        num_skipped: Records delivered again that were applied before.
        num_poison: Records dead-lettered.
        num_ignored: Events of types that the version does not take as behaviors.
        num_upserts: Rows written.
        freshness_ms: `p50` and `p99` over the last events applied; empty before the first.
        problem: Why it is not getting on now; empty when it is.
    """

    model_version: str
    num_partitions: int
    num_applied: int
    num_skipped: int
    num_poison: int
    num_ignored: int
    num_upserts: int
    freshness_ms: dict[str, float]
    problem: str


class UpdateLoop:
    """Runs one updater in a thread of its own until stopped.

    A batch that fails is tried again after a pause that doubles up to `max_backoff_s`. `check` tells when it is time
    to replace the whole process instead.

    Args:
        model_version: The version it keeps fresh.
        build: Makes the updater, in the thread, since connecting may take long; it is called again when it fails.
        config: Times.
        problems: Where it tells what is wrong.
        why_unowned: Asked now and then while it has owned no partition for long: returns what is wrong with that, or
            nothing where other updaters own them all.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        model_version: str,
        build: Callable[[OnStep], UserVectorUpdater],
        config: ServingConfig,
        *,
        problems: health.Problems | None = None,
        why_unowned: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model_version = model_version
        self._build = build
        self._config = config
        self._problems = problems or health.Problems()
        self._unowned = health.UnownedWatch(config.degraded_after_s, why_unowned, clock())
        self._idle = health.idle_watches(config.degraded_after_s)
        self._lags = health.LagWatch(config.degraded_after_s)
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"updater-{model_version}", daemon=True)
        self._at = "connect"
        self._beat = clock()
        self._problem: MindDistError | None = None
        self._failing_since = clock()
        self._backoff_s = _FIRST_BACKOFF_S
        self._died_of: BaseException | None = None
        self._lag_due = clock()
        self._num_partitions = self._num_applied = self._num_skipped = self._num_poison = 0
        self._num_ignored = self._num_upserts = 0
        self._freshness_s: deque[float] = deque(maxlen=_FRESHNESS_KEPT)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let the step under way finish, leave the log, and return when done, or after `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def check(self) -> None:
        """Return when all is well, or may still mend by itself.

        Raises:
            UpdaterStopped: The thread died, is stuck in a step, or has been failing for too long.
        """
        name = f"updater of {self.model_version}"
        if self._died_of is not None:
            raise UpdaterStopped(f"{name} died: {self._died_of}") from self._died_of
        now = self._clock()
        if now - self._beat > self._config.stuck_after_s:
            raise UpdaterStopped(f"{name} is stuck in step {self._at} for {now - self._beat:.0f} s")
        if self._problem is not None and now - self._failing_since > self._config.unhealthy_after_s:
            raise UpdaterStopped(f"{name} is failing for {now - self._failing_since:.0f} s: {self._problem}")

    def status(self) -> LoopStatus:
        """Return what was done so far."""
        freshness = np.array(self._freshness_s) * 1000
        quantiles = {f"p{q}": float(np.percentile(freshness, q)) for q in (50, 99)} if len(freshness) else {}
        problem = self._died_of or self._problem
        return LoopStatus(
            self.model_version,
            self._num_partitions,
            self._num_applied,
            self._num_skipped,
            self._num_poison,
            self._num_ignored,
            self._num_upserts,
            quantiles,
            str(problem or ""),
        )

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self._died_of = error
            logger.exception("updater died", extra={"fields": {"model_version": self.model_version}})
            self._problems.report(self.model_version, {health.UPDATE_FAILING: f"the updater died: {error}"})
        else:
            self._problems.report(self.model_version, {})

    def _follow(self) -> None:
        updater = None
        try:
            while not self._stopping.is_set():
                try:
                    updater = updater or self._connect()
                    self._advance(updater)
                except _FATAL:
                    raise
                except MindDistError as error:
                    self._pause(error)
        finally:
            if updater is not None:
                updater.close()

    def _connect(self) -> UserVectorUpdater:
        self._beat_at("connect")
        return self._build(self._enter)

    def _advance(self, updater: UserVectorUpdater) -> None:
        report = updater.step(self._config.poll_timeout_s)
        self._num_partitions = updater.num_partitions
        self._num_applied += report.num_applied
        self._num_skipped += report.num_skipped
        self._num_poison += report.num_poison
        self._num_ignored += report.num_ignored
        self._num_upserts += report.num_upserts
        self._idle[health.SKIPPING_EVERYTHING].note(report.num_records, report.num_skipped, self._clock())
        self._idle[health.IGNORING_EVERYTHING].note(report.num_records, report.num_ignored, self._clock())
        self._freshness_s.extend(report.freshness_s)
        recovered, self._problem = self._problem is not None, None
        self._backoff_s = _FIRST_BACKOFF_S
        if self._clock() >= self._lag_due or recovered:
            self._lag_due = self._clock() + _LAG_EVERY_S
            updater.report_lag()
            self._look_for_problems(updater.lags, updater.lag_problem)

    def _look_for_problems(self, lags: Mapping[int, int], lag_problem: str) -> None:
        """Tell what is wrong though no step fails: a poll finds nothing, too, when the broker is gone."""
        now = self._clock()
        self._lags.note(lags, now)
        found = {
            health.NO_PARTITIONS: self._unowned.problem(self._num_partitions, now),
            **{name: watch.problem(now) for name, watch in self._idle.items()},
            health.LAG_GROWING: self._lags.problem(now),
            health.LAG_UNKNOWN: lag_problem,
        }
        self._problems.report(self.model_version, {name: text for name, text in found.items() if text})

    def _enter(self, step: UpdateStep) -> None:
        self._beat_at(f"{step.value} ({step.name.lower()})")

    def _beat_at(self, place: str) -> None:
        self._at = place
        self._beat = self._clock()

    def _pause(self, error: MindDistError) -> None:
        """Wait before the next try, each time twice as long."""
        if self._problem is None:
            self._failing_since = self._clock()
        self._problem = error
        fields = {"model_version": self.model_version, "error": error, "pause_s": self._backoff_s}
        logger.warning("update failed, trying again", extra={"fields": fields})
        self._problems.report(self.model_version, {health.UPDATE_FAILING: str(error)})
        self._beat_at("pause")
        self._stopping.wait(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self._config.max_backoff_s)
