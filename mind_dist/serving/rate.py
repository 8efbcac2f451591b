"""How much is taken a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mind_dist.errors import TooFast


class RateLimit:
    """A bucket of tokens: it fills at a rate, up to a second's worth, and each unit of work takes one.

    Work of more units than the bucket holds is let through when it is full, and leaves a debt.

    Args:
        per_s: Units a second; 0 for any number.
        what: The units, for messages.
        clock: Seconds that never go back.
    """

    def __init__(self, per_s: float, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._left = per_s
        self._at = clock()

    def take(self, units: int = 1) -> None:
        """Take units.

        Raises:
            TooFast: There are not so many; it says when there will be.
        """
        if not self._per_s:
            return
        with self._lock:
            now = self._clock()
            self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
            self._at = now
            lacking = min(units, self._per_s) - self._left
            if lacking > 0:
                raise TooFast(self._what, self._per_s, lacking / self._per_s)
            self._left -= units

    def owe(self, units: int) -> None:
        """Take more units of work that was let through already: those after it wait for them."""
        if self._per_s:
            with self._lock:
                self._left -= units
