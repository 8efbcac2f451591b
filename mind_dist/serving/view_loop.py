"""One version's view in a thread of its own, and what it tells of itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mind_dist.config import ServingConfig
from mind_dist.observability import Metrics
from mind_dist.serving import health
from mind_dist.serving.work_loop import Beat, WorkLoop
from mind_dist.states.shared import SharedStores
from mind_dist.views.view import View, ViewReport

_FRESHNESS_KEPT = 10_000
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class ViewStatus:
    """What a loop has done since it started.

    Attributes:
        model_version: The version whose rows it keeps.
        num_behind: States that its rows are behind, over all partitions owned.
        num_upserts: Rows written.
        num_repairs: Rows found to differ from their states, and written anew.
        num_failed: Users that could not be encoded.
        freshness_ms: `p50` and `p99` of the time from an event's append to its user's row, over the last ones; empty
            before the first.
        problem: Why it is not getting on now; empty when it is.
    """

    model_version: str
    num_behind: int
    num_upserts: int
    num_repairs: int
    num_failed: int
    freshness_ms: dict[str, float]
    problem: str


class ViewLoop:
    """Keeps one version's rows until stopped.

    Args:
        model_version: The version.
        build: Makes the view; it is called in the thread.
        shared: The states of the partitions that are ours.
        config: Times.
        metrics: Where numbers go.
        problems: Where it tells what is wrong.
        is_active: Asked now and then: whether readers are on the version. Only then intake waits for it, and it is filled
            as fast as it can be.
        clock: Seconds that never go back.
        now_ms: The time of day.
    """

    def __init__(
        self,
        model_version: str,
        build: Callable[[], View],
        shared: SharedStores,
        config: ServingConfig,
        metrics: Metrics,
        *,
        problems: health.Problems,
        is_active: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.model_version = model_version
        self._shared = shared
        self._config = config
        self._metrics = metrics
        self._problems = problems
        self._is_active = is_active
        self._clock = clock
        self._now_ms = now_ms
        self._seen = 0
        self._look_at = clock()
        self._audit_at = clock()
        self._reached: dict[int, int] = {}
        self._view: View | None = None
        self._num_upserts = self._num_repairs = self._num_failed = 0
        self._freshness_s: deque[float] = deque(maxlen=_FRESHNESS_KEPT)
        self._loop = WorkLoop(
            f"the view of {model_version}",
            lambda beat: self._build(build, beat),
            self._advance,
            config,
            on_problem=self._note_failure,
            clock=clock,
        )
        self.start, self.check = self._loop.start, self._loop.check

    def stop(self, timeout_s: float) -> None:
        """Let the step under way finish and leave; intake waits for it no more."""
        self._loop.stop(timeout_s)
        self._shared.set_behind(self.model_version, 0)

    def status(self) -> ViewStatus:
        """Return what was done so far."""
        freshness = np.array(self._freshness_s) * 1000
        quantiles = {f"p{q}": float(np.percentile(freshness, q)) for q in (50, 99)} if len(freshness) else {}
        return ViewStatus(
            self.model_version,
            self._num_behind(),
            self._num_upserts,
            self._num_repairs,
            self._num_failed,
            quantiles,
            self._loop.problem,
        )

    def _build(self, build: Callable[[], View], beat: Beat) -> View:
        beat("connect")
        self._view = build()
        self._note_failure("")
        return self._view

    def _num_behind(self) -> int:
        """Return how many positions of the log of states the rows are behind; all of them before there is a view."""
        stores = self._shared.owned().stores
        reached = self._view.positions if self._view else {}
        return sum(max(0, store.position - reached.get(partition, 0)) for partition, store in stores.items())

    def _advance(self, view: View) -> None:
        stores, taken_over = self._shared.owned()
        started = self._clock()
        report = view.step(stores, taken_over)
        self._note(report)
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            behind = self._num_behind()
            self._shared.set_behind(self.model_version, behind if self._is_active() else 0)
            self._metrics.set("mind_dist_view_lag_states", behind, model_version=self.model_version)
        if self._config.views.audit_s and now >= self._audit_at and self._shared.is_ours():
            self._audit_at = now + self._config.views.audit_s
            self._num_repairs += view.audit(stores)
        if not report.num_users:
            self._seen = self._shared.wait(self._seen, self._config.poll_timeout_s)
        elif self._config.views.fill_users_per_s and not self._is_active():
            time.sleep(max(0.0, report.num_users / self._config.views.fill_users_per_s - (now - started)))

    def _note(self, report: ViewReport) -> None:
        self._num_upserts += report.num_rows
        self._num_failed += report.num_failed
        for partition, position in report.reached.items():
            first = self._reached.get(partition, 0)
            self._reached[partition] = position
            now_ms = self._now_ms()
            for appended_ms in self._shared.appended_below(partition, first, position):
                freshness_s = (now_ms - appended_ms) / 1000
                self._freshness_s.append(freshness_s)
                self._metrics.observe("mind_dist_freshness_seconds", freshness_s, model_version=self.model_version)

    def _note_failure(self, problem: str) -> None:
        unkept = ", ".join(self._view.unkept) if self._view else ""
        advice = f"the version reads {unkept} of each behavior, which is not kept: name it in serving.states.features"
        found = {health.VIEW_FAILING: problem, health.FEATURES_NOT_KEPT: advice if unkept else ""}
        self._problems.report(self.model_version, {name: text for name, text in found.items() if text})
