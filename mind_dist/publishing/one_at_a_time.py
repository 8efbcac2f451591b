"""One publish at a time: a lock in the registry of versions, which outlives its holder's death by a bounded time only.

The holder makes the lock's heart beat. Who finds a lock watches it: while it beats, another publish is under way; where it has
not beaten for a whole lease, its holder is dead, and the lock is taken over. A holder that was frozen for so long finds that
the lock is another's before it switches readers, and stops. The registry has no conditional write, so what remains open is
a holder that freezes for a lease between that look and the switch.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mind_dist.errors import LeaseLost, MindDistError, PublishUnderWay
from mind_dist.index.vector_store import PublishLock

logger = logging.getLogger(__name__)

_BEATS = 4  # a lease: one that is late is no death
_LOOKS = 10


class Lease:
    """A lock that is held, and kept alive by a thread.

    Args:
        lock: The lock, taken by `holder`.
        holder: Who holds it.
        lease_s: After so long without a beat it is another's.
    """

    def __init__(self, lock: PublishLock, holder: str, lease_s: float) -> None:
        self._lock, self._holder, self._lease_s = lock, holder, lease_s
        self._alive_at = time.monotonic()
        self._lost = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="publish-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Look whether the lock is still held.

        Raises:
            LeaseLost: It is another's.
        """
        found = self._lock.state()
        if self._lost or found is None or found[0] != self._holder:
            other = f": {found[0]}" if found else ""
            raise LeaseLost(f"another publish has taken over meanwhile{other}; since this one was not heard of")

    def end(self) -> None:
        """Give the lock back, if it is still held."""
        self._stopped.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._lock.remove(self._holder)
        except MindDistError as error:  # what was published stays so, and the lock ends by itself
            fields = {"holder": self._holder, "error": error}
            logger.warning("the lock of this publish was left in the store", extra={"fields": fields})

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_s / _BEATS):
            try:
                self._lost = not self._lock.beat(self._holder)
                self._alive_at = time.monotonic()
            except (
                MindDistError
            ):  # the server is away, for others as well; how long for tells whether the lock still holds
                self._lost = time.monotonic() - self._alive_at > self._lease_s
            if self._lost:
                return


@contextmanager
def only_publisher(lock: PublishLock, lease_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[Lease]:
    """Hold the lock.

    Args:
        lock: The deployment's.
        lease_s: How long a holder that is not heard of keeps it.
        sleep: Waits between looks at a lock that is there.

    Raises:
        PublishUnderWay: Another publish is under way.
    """
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {socket.gethostname()} since {since} UTC ({uuid.uuid4().hex[:8]})"
    _take(lock, holder, lease_s, sleep)
    lease = Lease(lock, holder, lease_s)
    try:
        yield lease
    finally:
        lease.end()


def _take(lock: PublishLock, holder: str, lease_s: float, sleep: Callable[[float], None]) -> None:
    if lock.create(holder):
        return
    seen = lock.state()
    for _ in range(_LOOKS):
        sleep(lease_s / _LOOKS)
        found = lock.state()
        if found != seen and found is not None:
            raise PublishUnderWay(f"another publish is under way: {found[0]}; try again when it has ended")
        if found is None and lock.create(holder):
            return
    if seen is not None:
        lock.remove(seen[0])
    if not lock.create(holder):
        raise PublishUnderWay("another publish has just begun; try again when it has ended")
