"""Wanted model versions → what runs for them, taken over without a restart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mind_dist.errors import MindDistError, UpdaterStopped, VersionError
from mind_dist.index.vector_store import VectorStore, VersionInfo

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
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: VectorStore,
        make: Callable[[VersionInfo], P],
        end: Callable[[P], None],
        *,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._make = make
        self._end = end
        self._poll_s = poll_s
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
        """Stop following, then end all parts."""
        self._stopping.set()
        self._thread.join(timeout_s)
        for model_version in list(self.parts):
            self._end(self.parts.pop(model_version))

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

    def look(self) -> None:
        """Make the parts of new wanted versions, then end the others.

        Raises:
            ServiceUnavailable: The store did not answer.
            VersionError: The active version is missing, torn or altered.
        """
        staged = self._store.staged_version()  # first: a version activated in between is then seen at least once
        active = self._store.active_version()
        if active is not None:
            self._keep(active)
        if staged is not None:
            self._try_to_keep(staged)
        for model_version in set(self.parts) - {active, staged}:
            self._end(self.parts.pop(model_version))

    def _keep(self, model_version: str) -> None:
        if model_version in self.parts:
            return
        known = {info.model_version: info for info in self._store.versions()}
        if model_version not in known:
            raise VersionError(model_version, "not in the vector store any more")
        self.parts[model_version] = self._make(known[model_version])
        logger.info("following", extra={"fields": {"model_version": model_version}})

    def _try_to_keep(self, model_version: str) -> None:
        try:
            self._keep(model_version)
        except MindDistError as error:  # readers are elsewhere: a bad publish must not disturb them
            fields = {"model_version": model_version, "error": error}
            logger.warning("staged version cannot be followed", extra={"fields": fields})

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except MindDistError as error:
                self._note(error)
            else:
                self._problem = None
                self._fine_at = self._clock()
            self._stopping.wait(self._poll_s)

    def _note(self, error: MindDistError) -> None:
        if self._problem is None:
            logger.warning("versions cannot be followed", extra={"fields": {"error": error}})
        self._problem = error
