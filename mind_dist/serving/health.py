"""What keeps the service from doing its whole job, by name: found by loops and followers, shown by `/readyz`.

A problem is logged when it comes and when it goes, and is 1 in the gauge `mind_dist_problem` while it is there. None of
them stops anything; what must be replaced says so by `check_health`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mind_dist.observability import Metrics

logger = logging.getLogger(__name__)

NO_PARTITIONS = "no_partitions"
SKIPPING_EVERYTHING = "skipping_everything"
IGNORING_EVERYTHING = "ignoring_everything"
LAG_GROWING = "lag_growing"
LAG_UNKNOWN = "lag_unknown"
UPDATE_FAILING = "update_failing"
PARTITIONS_STOPPED = "partitions_stopped"
VIEW_FAILING = "view_failing"
FEATURES_NOT_KEPT = "features_not_kept"
NO_ACTIVE_VERSION = "no_active_version"
ACTIVE_VERSION_NOT_LOADED = "active_version_not_loaded"
STAGED_VERSION_NOT_LOADED = "staged_version_not_loaded"
VERSIONS_UNKNOWN = "versions_unknown"
UPDATERS_MISSING = "updaters_missing"

_LEAST_IDLE = 100
"""Fewer records say nothing: so many are delivered again by any crash."""
_LEAST_LAG = 100
"""A lag that grew by less is not worth a word."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now.

    Attributes:
        name: One of this module's names, for alerts.
        source: Whose it is: a model version, or what else the finder works on.
        message: What, where, and what to do.
    """

    name: str
    source: str
    message: str


class Problems:
    """The problems of one process; safe to share between threads.

    Args:
        metrics: Where the gauge goes, if anywhere.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._found: dict[str, dict[str, str]] = {}

    def report(self, source: str, found: Mapping[str, str]) -> None:
        """Replace a source's problems.

        Args:
            source: Who found them.
            found: Name → message; those that are not in it any more are over.
        """
        with self._lock:
            before = self._found.get(source, {})
            self._found[source] = dict(found)
        for name in before.keys() - found.keys():
            self._set(name, source, 0)
            logger.info("problem is over", extra={"fields": {"problem": name, "source": source}})
        for name in found.keys() - before.keys():
            self._set(name, source, 1)
            fields = {"problem": name, "source": source, "detail": found[name]}
            logger.warning("problem found", extra={"fields": fields})

    def _set(self, name: str, source: str, there: int) -> None:
        if self._metrics is not None:
            self._metrics.set("mind_dist_problem", there, problem=name, source=source)

    def current(self) -> list[Problem]:
        """Return what is wrong now, in order of source and name."""
        with self._lock:
            found = [(source, name, text) for source, of in self._found.items() for name, text in of.items()]
        return [Problem(name, source, text) for source, name, text in sorted(found)]


class UnownedWatch:
    """Notices that an updater has owned no partition for long.

    Args:
        after_s: How long is long.
        why: Returns what is wrong with owning none, or nothing where that is as it should be; asked each `after_s`.
        now: When watching begins, in seconds that never go back.
    """

    def __init__(self, after_s: float, why: Callable[[], str], now: float) -> None:
        self._after_s = after_s
        self._why = why
        self._ask_at = now + after_s
        self._answer = ""
        self._said = False

    def problem(self, num_partitions: int, now: float) -> str:
        """Return what is wrong, given how many partitions are owned; empty when nothing is."""
        if num_partitions:
            self._ask_at, self._answer, self._said = now + self._after_s, "", False
        elif now >= self._ask_at:
            self._ask_at, self._answer = now + self._after_s, self._why()
            if not self._answer and not self._said:
                self._said = True
                logger.info("no partition is ours: there are more updaters than partitions, this one waits")
        return self._answer


class IdleWatch:
    """Notices that for long nothing of what was polled was applied, for one and the same reason.

    Args:
        after_s: How long is long.
        meaning: What such a stretch means and what to do, for the message.
    """

    def __init__(self, after_s: float, meaning: str) -> None:
        self._after_s = after_s
        self._meaning = meaning
        self._since: float | None = None
        self._count = 0

    def note(self, num_records: int, num_idle: int, now: float) -> None:
        """Take note of a batch, and of how many of its records were left out for that reason."""
        if num_idle < num_records:
            self._since, self._count = None, 0
        elif num_records:
            self._since = now if self._since is None else self._since
            self._count += num_idle

    def problem(self, now: float) -> str:
        """Return what is wrong; empty when nothing is."""
        if self._since is None or now - self._since < self._after_s or self._count < _LEAST_IDLE:
            return ""
        return f"none of the {self._count} records of the last {now - self._since:.0f} s was applied: {self._meaning}"


_SKIPPING = (
    "their users' states say that they are applied already, so the states' positions are of another log: if the topic was "
    "made anew, let the states begin anew, too"
)
_IGNORING = "their event types are none that are kept: compare what producers send with serving.states.event_types"


def idle_watches(after_s: float) -> dict[str, IdleWatch]:
    """Return what to watch an updater's batches with, by the name of the problem."""
    return {SKIPPING_EVERYTHING: IdleWatch(after_s, _SKIPPING), IGNORING_EVERYTHING: IdleWatch(after_s, _IGNORING)}


class LagWatch:
    """Notices partitions whose lag has grown all through a stretch of time."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._samples: dict[int, deque[tuple[float, int]]] = {}

    def note(self, lags: Mapping[int, int], now: float) -> None:
        """Take note of each owned partition's lag, in records."""
        for partition in self._samples.keys() - lags.keys():
            del self._samples[partition]
        for partition, lag in lags.items():
            samples = self._samples.setdefault(partition, deque())
            samples.append((now, lag))
            while samples[0][0] < now - 2 * self._after_s:
                samples.popleft()

    def problem(self, now: float) -> str:
        """Return what is wrong; empty when nothing is."""
        growing = {each: samples[-1][1] for each, samples in self._samples.items() if self._grows(samples, now)}
        if not growing:
            return ""
        places = ", ".join(f"{partition} ({lag:,} records)" for partition, lag in sorted(growing.items()))
        return f"the lag of partition {places} grows: add updaters, up to the number of partitions"

    def _grows(self, samples: Sequence[tuple[float, int]], now: float) -> bool:
        """Tell whether each lag of the last `after_s` is above each one of the `after_s` before."""
        then = [lag for at, lag in samples if at <= now - self._after_s]
        lately = [lag for at, lag in samples if at > now - self._after_s]
        return bool(then) and bool(lately) and min(lately) > max(then) and lately[-1] >= then[0] + _LEAST_LAG


class UpdaterWatch:
    """Keeps what the updaters' replicas say is wrong, in a thread of its own, so that no request waits for them.

    A call to the deployment reaches one replica at random; each is heard within some rounds of as many calls as there
    are replicas.

    Args:
        ask: Calls the deployment and returns a replica's name and problems; bounded in time.
        fewest: How many replicas there should be at least.
        most: How many there may be.
        problems: Where it tells that some are silent.
        after_s: For how long they may be.
        every_s: Pause between rounds.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        ask: Callable[[], tuple[str, list[Problem]]],
        *,
        fewest: int,
        most: int,
        problems: Problems,
        after_s: float,
        every_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fewest = fewest
        self._most = most
        self._problems = problems
        self._after_s = after_s
        self._every_s = every_s
        self._clock = clock
        self._started = clock()
        self._answers: dict[str, tuple[float, list[Problem]]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop asking."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def current(self) -> list[Problem]:
        """Return what the replicas heard of lately say is wrong, the same thing once."""
        answers = list(self._answers.values())
        return sorted({each for _, problems in answers for each in problems}, key=lambda each: (each.source, each.name))

    def look(self) -> None:
        """Ask one round, and tell whether replicas are silent."""
        for _ in range(self._most):
            self._ask_one()
        now = self._clock()
        self._answers = {name: each for name, each in self._answers.items() if now - each[0] <= self._after_s}
        silent = len(self._answers) < self._fewest and now - self._started > self._after_s
        heard = f"{len(self._answers)} of {self._fewest} updaters answered within the last {self._after_s:.0f} s"
        found = {UPDATERS_MISSING: f"{heard}: look at Ray Serve's status and logs"} if silent else {}
        self._problems.report("updaters", found)

    def _ask_one(self) -> None:
        try:
            replica, problems = self._ask()
        except Exception:  # noqa: BLE001 - whatever keeps a replica from answering, it has not answered
            return
        self._answers[replica] = (self._clock(), problems)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(self._every_s)
