"""Kinds of work, each with threads and a queue of its own: what waits for one service never holds up another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mind_dist.errors import Overloaded

A = TypeVar("A")


class Lane:
    """Runs blocking calls of one kind in threads of its own, and refuses what it cannot begin soon.

    Args:
        name: The kind of work, for messages and threads' names.
        threads: Calls at once.
        waiting: Calls that wait for a thread.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name = name
        self.most = threads + waiting
        self._places = threading.BoundedSemaphore(self.most)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"http-{name}")

    async def run(self, call: Callable[[], A]) -> A:
        """Return what a call returns; a caller that leaves gives its place back when the call has ended.

        Raises:
            Overloaded: All threads are busy, and the queue is full.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(self.name, self.most)
        future = self._pool.submit(call)
        future.add_done_callback(lambda _ended: self._places.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
