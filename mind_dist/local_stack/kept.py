"""What a stack's directory keeps from one start to the next: ports, ids, and the lock that lets one stack use it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mind_dist.errors import ConfigError
from mind_dist.ports import free_ports
from mind_dist.strict_json import from_json, to_json

T = TypeVar("T")

_FILE = "kept.json"
_LOCK = "lock"
_ENDING_WITHIN_S = 30.0


def kept(directory: Path, name: str, make: Callable[[], T]) -> T:
    """Return the value that the directory keeps under a name; made, and kept from now on, where there is none."""
    file = directory / _FILE
    values = from_json(file.read_text()) if file.exists() else {}
    if name not in values:
        values[name] = make()
        directory.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(to_json(values, indent=2))
        new.replace(file)
    value: T = values[name]
    return value


def kept_ports(directory: Path, service: str, count: int) -> list[int]:
    """Return a service's ports: those of the last start in this directory, else free ones."""
    return kept(directory, f"{service} ports", lambda: free_ports(count))


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Have a directory alone, and yield the descriptor of its lock.

    A process that keeps the descriptor open keeps the lock: servers that outlive a killed owner for a moment are waited
    for, as they still have their ports and files.

    Raises:
        ConfigError: Another stack runs in the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("a+") as file:
        _take(file.fileno(), directory)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _take(descriptor: int, directory: Path) -> None:
    give_up = time.monotonic() + _ENDING_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = (directory / _LOCK).read_text()
            if Path(f"/proc/{owner}").exists() or time.monotonic() > give_up:
                problem = f"process {owner} runs a stack in {directory}"
                raise ConfigError("directory", f"{problem}: stop it, or give another --directory") from None
            time.sleep(0.1)
        else:
            return
