"""Idempotency keys of requests, remembered for a while in this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mind_dist.errors import InvalidRequest, KeyInUse

LONGEST_KEY = 255
"""Characters of a key."""


@dataclass
class Remembered:
    """What is known of a key.

    Attributes:
        digest: Of the request that came with it first.
        first_ms: When that came, in milliseconds since the epoch: times that it left out stay the same at each try.
        until: When it is forgotten, by the clock.
        is_running: A request with it waits for the log now.
        is_done: The log has stored its events.
    """

    digest: bytes
    first_ms: int
    until: float
    is_running: bool = False
    is_done: bool = False


class IdempotencyKeys:
    """Keys by which requests that are sent again are known.

    Args:
        keep_s: How long a key is remembered after its first request.
        most: Keys remembered; the oldest go first.
        clock: Seconds that never go back.
    """

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Remembered] = OrderedDict()

    @contextmanager
    def request(self, key: str, digest: bytes, now_ms: int) -> Iterator[Remembered]:
        """Yield what is known of a key while one request with it runs; it is done when the body ends well.

        Raises:
            InvalidRequest: The key came with another request before, or is no key.
            KeyInUse: A request with the key runs now.
        """
        known = self._begin(_checked(key), digest, now_ms)
        try:
            yield known
            known.is_done = True
        finally:
            known.is_running = False

    def _begin(self, key: str, digest: bytes, now_ms: int) -> Remembered:
        with self._lock:
            self._forget()
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = Remembered(digest, now_ms, self._clock() + self._keep_s)
            if known.digest != digest:
                raise InvalidRequest(f"Idempotency-Key {key!r} came with other events before: take a new key")
            if known.is_running:
                raise KeyInUse(f"a request with Idempotency-Key {key!r} is being worked on: try again")
            known.is_running = True
            return known

    def _forget(self) -> None:
        while self._known:
            key, oldest = next(iter(self._known.items()))
            if oldest.until > self._clock() and len(self._known) < self._most:
                return
            del self._known[key]


def _checked(key: str) -> str:
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"Idempotency-Key: must be 1 to {LONGEST_KEY} printable ASCII characters")
    return key
