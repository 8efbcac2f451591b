"""A thread around something that works in steps: heartbeats, back-off, health."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from mind_dist.config import ServingConfig
from mind_dist.errors import AnotherLog, MindDistError, UpdaterStopped

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.1


class Closes(Protocol):
    """What can be left."""

    def close(self) -> None:
        """Leave what it is connected to."""
        ...


W = TypeVar("W", bound=Closes)

Beat = Callable[[str], None]
"""Says where the work is: a heartbeat."""


class WorkLoop(Generic[W]):
    """Builds some work and does it, in a thread of its own, until stopped.

    A step that fails is tried again after a pause that doubles up to `max_backoff_s`, and is up to half as long again by
    chance, so that many do not come back at once. `check` tells when it is time to replace the whole process.

    Args:
        name: Of what it keeps up, for messages.
        build: Makes the work, in the thread, since connecting may take long; called again when it fails, and when the log that the
            work is of was made anew.
        step: Does the next of it; waits a little where there is nothing to do.
        config: Times.
        on_problem: Told what fails now; empty when nothing does any more.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[Beat], W],
        step: Callable[[W], None],
        config: ServingConfig,
        *,
        on_problem: Callable[[str], None] = lambda _problem: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._build = build
        self._step = step
        self._config = config
        self._on_problem = on_problem
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._at = "connect"
        self._beat = clock()
        self._problem: MindDistError | None = None
        self._failing_since = clock()
        self._backoff_s = _FIRST_BACKOFF_S
        self._died_of: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let the step under way finish, leave, and return when done, or after `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def check(self) -> None:
        """Return when all is well, or may still mend by itself.

        Raises:
            UpdaterStopped: The thread died, is stuck in a step, or has been failing for too long.
        """
        if self._died_of is not None:
            raise UpdaterStopped(f"{self.name} died: {self._died_of}") from self._died_of
        now = self._clock()
        if now - self._beat > self._config.stuck_after_s:
            raise UpdaterStopped(f"{self.name} is stuck in step {self._at} for {now - self._beat:.0f} s")
        if self._problem is not None and now - self._failing_since > self._config.unhealthy_after_s:
            raise UpdaterStopped(f"{self.name} is failing for {now - self._failing_since:.0f} s: {self._problem}")

    @property
    def problem(self) -> str:
        """Why it is not getting on now; empty when it is."""
        return str(self._died_of or self._problem or "")

    def _run(self) -> None:
        try:
            self._go_on()
        except BaseException as error:
            self._died_of = error
            logger.exception("died", extra={"fields": {"work": self.name}})
            self._on_problem(f"{self.name} died: {error}")
        else:
            self._on_problem("")

    def _go_on(self) -> None:
        work: W | None = None
        try:
            while not self._stopping.is_set():
                try:
                    if work is None:
                        self._beat_at("connect")
                        work = self._build(self._beat_at)
                    self._beat_at("step")
                    self._step(work)
                    self._fine()
                except AnotherLog as error:  # all that the work knows is of the log that was
                    if work is not None:
                        work.close()
                    work = None
                    self._pause(error)
                except MindDistError as error:
                    self._pause(error)
        finally:
            if work is not None:
                work.close()

    def _fine(self) -> None:
        if self._problem is not None:
            self._problem = None
            self._on_problem("")
        self._backoff_s = _FIRST_BACKOFF_S

    def _beat_at(self, place: str) -> None:
        self._at = place
        self._beat = self._clock()

    def _pause(self, error: MindDistError) -> None:
        """Wait before the next try, each time twice as long."""
        if self._problem is None:
            self._failing_since = self._clock()
        self._problem = error
        pause_s = self._backoff_s * random.uniform(1, 1.5)
        fields = {"work": self.name, "error": error, "pause_s": round(pause_s, 2)}
        logger.warning("failed, trying again", extra={"fields": fields})
        self._on_problem(str(error))
        self._beat_at("pause")
        self._stopping.wait(pause_s)
        self._backoff_s = min(2 * self._backoff_s, self._config.max_backoff_s)
