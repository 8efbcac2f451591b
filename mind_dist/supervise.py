"""Run one command so that nothing of it outlives its owner: `python supervise.py GRACE_S COMMAND…`.

The owner holds the writing end of this process' standard input. When that closes (also because the owner was
killed with -9), or SIGTERM comes, or the command ends by itself, the command gets SIGTERM and GRACE_S seconds; then
every process that came of it is killed, whatever session or group it moved to: on Linux orphans are handed to
this process. Started by path and on the standard library alone, so it costs some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def supervise(command: Sequence[str], grace_s: float) -> int:
    """Run a command until it ends or the owner wants it gone; return its exit code, 128 + n after signal n."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup = _signals_as_bytes()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the owner's own command
    codes: dict[int, int] = {}
    while child.pid not in codes and not _stop_wanted(wakeup):
        _reap(codes)
    if child.pid not in codes:
        child.terminate()
        _wait(child.pid, codes, grace_s)
    _kill_descendants(codes)
    return codes.get(child.pid, 128 + signal.SIGKILL)


def _signals_as_bytes() -> int:
    """Make SIGTERM, SIGINT and SIGCHLD readable from a pipe, and return its reading end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _stop_wanted(wakeup: int) -> bool:
    """Wait for a signal or the owner; tell whether it means the end."""
    ready, _, _ = select.select([sys.stdin.fileno(), wakeup], [], [])
    if wakeup in ready:
        return any(number != signal.SIGCHLD for number in os.read(wakeup, 512))
    return not os.read(sys.stdin.fileno(), 512)


def _reap(codes: dict[int, int]) -> bool:
    """Take the exit codes of all ended children; tell whether any child is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        code = os.waitstatus_to_exitcode(status)
        codes[pid] = code if code >= 0 else 128 - code


def _wait(pid: int, codes: dict[int, int], bound_s: float) -> None:
    deadline = time.monotonic() + bound_s
    while _reap(codes) and pid not in codes and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill_descendants(codes: dict[int, int]) -> None:
    """Kill children until none is left; those of a killed one become ours and are next."""
    while _reap(codes):
        for pid in children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def children_of(parent: int) -> list[int]:
    """Return the processes whose parent is `parent`; none where there is no /proc."""
    return [pid for pid, its_parent in _parents().items() if its_parent == parent]


def descendants_of(ancestor: int) -> set[int]:
    """Return all processes that came of `ancestor`, itself included."""
    parents = _parents()
    found = {ancestor}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        parents[int(stat.parent.name)] = int(after_name[1])
    return parents


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[2:], float(sys.argv[1])))
