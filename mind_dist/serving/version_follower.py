"""Wanted model versions → what runs for them, taken over without a restart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mind_dist.errors import MindDistError, UpdaterStopped, VersionError
from mind_dist.index.vector_store import VectorStore, VersionInfo
from mind_dist.serving import health

logger = logging.getLogger(__name__)

P = TypeVar("P")


class VersionFollower(Generic[P]):
    """Keeps one part — an updater, a loaded encoder — for the active version, and for the staged one.

    A version's part is made before another one's is ended, and as long as the active version's cannot be made,
    nothing is ended: whatever goes wrong with a new version, the old one goes on.

    Args:
        store: Where versions are listed.
        make: Makes a version's part.
        end: Ends a part; called when its version is wanted no more.
        poll_s: How often to look.
        problems: Where it tells which wanted version has no part, and why.
        source: As whom it tells so.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: VectorStore,
        make: Callable[[VersionInfo], P],
        end: Callable[[P], None],
        *,
        poll_s: float,
        problems: health.Problems | None = None,
        source: str = "versions",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._make = make
        self._end = end
        self._poll_s = poll_s
        self._problems = problems or health.Problems()
        self._source = source
        self._active: str | None = None
        self._looked = False
        self._published_ms: dict[str, int] = {}
        self._staged_problem = ""
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="version-follower", daemon=True)
        self._problem: MindDistError | None = None
        self._fine_at = clock()
        self.parts: dict[str, P] = {}

    def start(self) -> None:
        """Follow in a thread of its own."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop following, then end all parts, at the same time: how long it may take does not depend on how many there are."""
        self._stopping.set()
        self._thread.join(timeout_s)
        ends = [threading.Thread(target=self._end, args=(part,)) for part in self.parts.values()]
        self.parts.clear()
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def check(self, unhealthy_after_s: float) -> None:
        """Return when all is well, or may still mend by itself.

        Raises:
            UpdaterStopped: The thread died, or the active version could not be followed for `unhealthy_after_s`.
        """
        if not self._thread.is_alive():
            raise UpdaterStopped("the thread that follows model versions died")
        failing_s = self._clock() - self._fine_at
        if self._problem is not None and failing_s > unhealthy_after_s:
            raise UpdaterStopped(f"model versions cannot be followed for {failing_s:.0f} s: {self._problem}")

    @property
    def active(self) -> str | None:
        """The version that readers were on at the last look."""
        return self._active

    def look(self) -> None:
        """Make the parts of new wanted versions, then end the others.

        Raises:
            ServiceUnavailable: The store did not answer.
            VersionError: The active version is missing, torn or altered.
        """
        staged = self._store.staged_version()  # first: a version activated in between is then seen at least once
        active = self._store.active_version()
        self._active, self._looked = active, True
        if active is not None:
            self._keep(active)
        self._staged_problem = "" if staged is None else self._try_to_keep(staged)
        for model_version in set(self.parts) - {active, staged}:
            self._end(self.parts.pop(model_version))

    def _keep(self, model_version: str) -> None:
        """Make a version's part, and make it anew where the version was dropped and published again meanwhile."""
        known = {info.model_version: info for info in self._store.versions()}
        if model_version not in known:
            raise VersionError(model_version, "not in the vector store any more")
        published_ms = known[model_version].published_ms
        if model_version in self.parts and self._published_ms[model_version] == published_ms:
            return
        if model_version in self.parts:
            self._end(self.parts.pop(model_version))
        self.parts[model_version] = self._make(known[model_version])
        self._published_ms[model_version] = published_ms
        logger.info("following", extra={"fields": {"model_version": model_version}})

    def _try_to_keep(self, model_version: str) -> str:
        """Return why a version cannot be followed, where it cannot: readers are elsewhere, and must not be disturbed."""
        try:
            self._keep(model_version)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the active one goes on
            return f"version {model_version} is staged, and cannot be followed: {error}"
        return ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except MindDistError as error:
                self._problem = error
            else:
                self._problem = None
                self._fine_at = self._clock()
            self._report()
            self._stopping.wait(self._poll_s)

    def _report(self) -> None:
        found = {}
        if isinstance(self._problem, VersionError):
            found[health.ACTIVE_VERSION_NOT_LOADED] = f"the active version cannot be followed: {self._problem}"
        elif self._problem is not None:
            found[health.VERSIONS_UNKNOWN] = f"it cannot be told which versions are wanted: {self._problem}"
        elif self._looked and self._active is None:
            found[health.NO_ACTIVE_VERSION] = "no model version is active: publish one"
        if self._staged_problem:
            found[health.STAGED_VERSION_NOT_LOADED] = self._staged_problem
        self._problems.report(self._source, found)
