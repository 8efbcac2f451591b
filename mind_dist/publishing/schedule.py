"""A run that saves versions without end → readers on its newest one, by a look every so often.

Whatever goes wrong in a turn is told and counted, readers stay where they are, and the next turn tries again.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import PublishConfig
from mind_dist.errors import (
    LeaseLost,
    MindDistError,
    PublishError,
    PublishUnderWay,
    ServiceUnavailable,
    UsersBehind,
    VersionError,
)
from mind_dist.index.vector_store import VectorStore, VersionInfo
from mind_dist.observability import Metrics
from mind_dist.publishing.catching_up import CatchUp
from mind_dist.publishing.copies import PublishedCopies
from mind_dist.publishing.from_run import publish_from_run
from mind_dist.publishing.report import PublishReport

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 5.0
_LOOK_FOR_STOP_S = 0.2
_SHOW_AGE_S = 15.0


class Outcome(StrEnum):
    """What came of a turn."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    NOTHING_SAVED = "nothing_saved"
    ROLLED_BACK = "rolled_back"
    OLDER = "older"
    STILL_REFUSED = "still_refused"
    UNDER_WAY = "under_way"
    STOPPED = "stopped"
    REFUSED = "refused"
    USERS_BEHIND = "users_behind"
    VERSION = "version"
    UNAVAILABLE = "unavailable"
    STORE = "store"


FAILURES = frozenset({Outcome.REFUSED, Outcome.USERS_BEHIND, Outcome.VERSION, Outcome.UNAVAILABLE, Outcome.STORE})
"""Outcomes that are counted as failures."""

_PASSING = frozenset({Outcome.VERSION, Outcome.UNAVAILABLE})
"""Those that may be over soon: a run has just deleted the version, a service is starting again."""

_WHY = {
    Outcome.UNCHANGED: "readers are on it",
    Outcome.NOTHING_SAVED: "the run has saved no version yet",
    Outcome.ROLLED_BACK: "readers have been put back from it: it waits for a newer version",
    Outcome.OLDER: "readers are on a version that the run saved later: publish this one by hand to go back",
}


class Stopped(MindDistError):
    """The publisher was asked to end in the middle of a publish, which has been taken back."""


_OUTCOMES: dict[type[Exception], Outcome] = {
    Stopped: Outcome.STOPPED,
    PublishUnderWay: Outcome.UNDER_WAY,
    LeaseLost: Outcome.UNDER_WAY,
    UsersBehind: Outcome.USERS_BEHIND,
    PublishError: Outcome.REFUSED,
    VersionError: Outcome.VERSION,
    ServiceUnavailable: Outcome.UNAVAILABLE,
    OSError: Outcome.UNAVAILABLE,
    MindDistError: Outcome.STORE,
}
"""The first kind that an error is of says what came of the turn."""


@dataclass(frozen=True)
class Turn:
    """What a turn came to.

    Attributes:
        outcome: In a word.
        problem: Why nothing was published; empty where something was.
        newest: The run's version, where one was found.
        active: What readers are on now, as far as that is known.
        report: Of the publish, if there was one.
    """

    outcome: Outcome
    problem: str = ""
    newest: ModelVersion | None = None
    active: VersionInfo | None = None
    report: PublishReport | None = None


@dataclass(frozen=True)
class FollowedRun:
    """What versions come from.

    Attributes:
        find: Returns the version that the run stands for, verified or by its manifest alone, None before the first save;
            and what is wrong with those that would have been taken before it.
        copies: Where what is published of it is kept.
    """

    find: Callable[[bool], tuple[ModelVersion | None, Sequence[str]]]
    copies: PublishedCopies


class ScheduledPublisher:
    """Publishes a run's newest version whenever it is another one than readers are on.

    A version that does not pass is tried again when there is a newer one, or by a new publisher. One that readers were put
    back from by an operator is not published again.

    Args:
        run: The run.
        open_store: Opens the index for one turn, given how it is to wait, which is what ends its waiting when asked to stop.
        config: What a version must show.
        metrics: Where numbers go.
        catch_up: Makes what is asked, in one publish, whether users' rows are there; None where they are not waited for.
        should_stop: Tells whether to end: in a publish up to its last check, or while waiting.
        sleep: Waits.
    """

    def __init__(
        self,
        run: FollowedRun,
        open_store: Callable[[Callable[[float], None]], AbstractContextManager[VectorStore]],
        config: PublishConfig,
        metrics: Metrics,
        *,
        catch_up: Callable[[], CatchUp | None],
        should_stop: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run = run
        self._open_store = open_store
        self._config = config
        self._metrics = metrics
        self._catch_up = catch_up
        self._should_stop = should_stop
        self._sleep = sleep
        self._refused: tuple[str, str] = ("", "")
        self._newest: ModelVersion | None = None
        self._active: VersionInfo | None = None

    def run(self, every_s: float) -> None:
        """Take turns until asked to stop; after a failure that may pass, earlier: after a pause that doubles up to `every_s`.

        The pause is up to half as long again by chance, so that several publishers do not come back all at once.
        """
        backoff_s = _FIRST_BACKOFF_S
        while not self._should_stop():
            turn = self.turn()
            pause_s = every_s
            if turn.outcome in _PASSING:
                pause_s = min(every_s, backoff_s * random.uniform(1, 1.5))
                backoff_s = min(2 * backoff_s, every_s)
            else:
                backoff_s = _FIRST_BACKOFF_S
            self._wait(pause_s)

    def turn(self) -> Turn:
        """Look once, publish what there is to publish, and tell what came of it."""
        self._newest = None
        turn = dataclasses.replace(self._attempt(), newest=self._newest, active=self._active)
        if turn.outcome == Outcome.REFUSED and turn.newest is not None:
            self._refused = turn.newest.manifest.model_version, turn.problem
        self._count(turn)
        _log(turn)
        return turn

    def _attempt(self) -> Turn:
        try:
            with self._open_store(self._pause) as store:
                return self._publish(store)
        except (MindDistError, OSError) as error:  # the latter is what a storage that is away raises
            return Turn(next(outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind)), str(error))

    def _publish(self, store: VectorStore) -> Turn:
        known = {info.model_version: info for info in store.versions()}
        self._active = known.get(store.active_version() or "")
        version: ModelVersion | None = None
        for verify in (False, True):  # most turns find nothing new, and need not read all of a version for that
            version, damaged = self._run.find(verify)
            self._newest = version
            if found := self._why_not(version, known):
                return Turn(Outcome.VERSION, "; ".join(damaged)) if damaged else found
        assert version is not None
        report = publish_from_run(
            store,
            version,
            self._run.copies,
            self._config,
            catch_up=self._catch_up(),
            advance=lambda _step, _done: self._check_stop(),
            on_block=self._check_stop,
            sleep=self._pause,
        )
        model_version = report.model_version
        self._active = {info.model_version: info for info in store.versions()}.get(model_version)
        if report.already_active:  # by another publisher, while this one waited for the lock
            return Turn(Outcome.UNCHANGED, _WHY[Outcome.UNCHANGED])
        return Turn(Outcome.PUBLISHED, report=report)

    def _why_not(self, version: ModelVersion | None, known: dict[str, VersionInfo]) -> Turn | None:
        """Return why a version is not to be published; None where it is."""
        if version is None:
            return Turn(Outcome.NOTHING_SAVED, _WHY[Outcome.NOTHING_SAVED])
        name, copies, active = version.manifest.model_version, self._run.copies, self._active
        outcome: Outcome | None = None
        if active is not None and name == active.model_version:
            copies.note_active(name)  # a publisher that was killed right behind the switch has not
            outcome = Outcome.UNCHANGED
        elif active is not None and name in known and copies.was_active(name):
            outcome = Outcome.ROLLED_BACK
        elif active is not None and version.manifest.created_ms < copies.saved_ms(active.model_version):
            outcome = Outcome.OLDER
        elif name == self._refused[0]:
            return Turn(Outcome.STILL_REFUSED, self._refused[1])
        return Turn(outcome, _WHY[outcome]) if outcome else None

    def _check_stop(self) -> None:
        if self._should_stop():
            raise Stopped("asked to stop: the publish under way is taken back, and goes on with the next start")

    def _pause(self, seconds: float) -> None:
        """Wait inside a publish, which ends by that where it is to stop."""
        self._slices(seconds)
        self._check_stop()

    def _wait(self, seconds: float) -> None:
        """Wait between turns, and go on showing how old is what readers have."""
        left_s = seconds
        while left_s > 0 and not self._should_stop():
            self._slices(min(left_s, _SHOW_AGE_S))
            left_s -= _SHOW_AGE_S
            self._show_age()

    def _slices(self, seconds: float) -> None:
        left_s = seconds
        while left_s > 0 and not self._should_stop():
            self._sleep(min(left_s, _LOOK_FOR_STOP_S))
            left_s -= _LOOK_FOR_STOP_S

    def _count(self, turn: Turn) -> None:
        if turn.outcome == Outcome.PUBLISHED:
            self._metrics.add("mind_dist_published_versions")
        if turn.outcome in FAILURES:
            self._metrics.add("mind_dist_publish_failures", reason=str(turn.outcome))
        self._show_age()

    def _show_age(self) -> None:
        age_s = _age_s(self._active.watermark_ms if self._active else 0)
        if age_s is not None:
            self._metrics.set("mind_dist_active_watermark_age_seconds", age_s)


def _log(turn: Turn) -> None:
    newest, active, report = turn.newest, turn.active, turn.report
    fields: dict[str, object] = {
        "outcome": turn.outcome,
        "active": active.model_version if active else "none",
        "watermark_age_s": _age_s(active.watermark_ms if active else 0),
        "newest": newest.manifest.model_version if newest else "none",
        "saved_age_s": _age_s(newest.manifest.created_ms if newest else 0),
    }
    if report is not None:
        wall_s, retired = round(report.wall_s, 1), ",".join(report.retired) or "none"
        fields |= {"items": report.num_items, "users": report.num_users, "wall_s": wall_s, "retired": retired}
    if turn.problem:
        fields["why"] = turn.problem
    level = logging.WARNING if turn.outcome in FAILURES else logging.INFO
    message = "published" if turn.outcome == Outcome.PUBLISHED else "not published"
    logger.log(level, message, extra={"fields": fields})


def _age_s(since_ms: int) -> float | None:
    """Return how long ago a time was, in seconds; None where it is not known."""
    return round(time.time() - since_ms / 1000, 1) if since_ms else None
