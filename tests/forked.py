"""Processes forked off a server that has imported everything, so that many of them are no load: one alone takes 5 s of CPU to import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.drills.replica", "tests.views_process", "tests.lineages"])

_one_at_a_time = threading.Lock()
"""Whoever starts a process asks all others how they ended, and of two that ask at once one is told wrongly."""


class Forked:
    """A process that runs a function; a context manager that kills it at the end."""

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        self._process = context.Process(target=target, args=arguments, daemon=True)
        with _one_at_a_time:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended: less than 0 by a signal; None while it has not."""
        with _one_at_a_time:
            return self._process.exitcode

    def wait(self, within_s: float) -> int:
        """Return how it ended, once it has."""
        give_up_s = time.monotonic() + within_s
        while (code := self.exit_code()) is None:
            assert time.monotonic() < give_up_s, f"process {self.pid} has not ended within {within_s} s"
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        """Kill it, wherever it is."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait(30)


def state_of(pid: int) -> str:
    """Return the kernel's letter for a process: T is frozen, Z or nothing has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
