"""An updater replica in a process of its own, and the events that it is measured by: what `benchmarks.freshness` stands on."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from mind_dist.config import Addresses, ServingConfig, dump
from mind_dist.log.kafka import EventProducer
from mind_dist.records import Keys

_TIME_MS = 1_700_000_000_000
_HISTORY = 50
_WITHIN_S = 600.0
_LOOK_S = 0.05
"""How often it is asked whether it has come to the end: each question takes some of its time."""


class Taken(NamedTuple):
    """What something took.

    Attributes:
        wall_s: Seconds.
        cpu_s: Seconds of CPU time of the updater's process.
    """

    wall_s: float
    cpu_s: float


class Updater:
    """Tells the process what to do, one command at a time."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def call(self, command: str) -> Any:
        """Return the answer to `start`, `stop`, `reset` or `status`."""
        self._pipe.send(command)
        return self._pipe.recv()

    def status(self) -> dict[str, Any]:
        """Return what the replica has done, and `cpu_s` of its process."""
        found: dict[str, Any] = self.call("status")
        return found


@contextmanager
def updating(config: ServingConfig, addresses: Addresses) -> Iterator[Updater]:
    """Run a process for an updater replica, which is started and stopped by commands."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, dump(config), addresses.shareable()), daemon=True)
    process.start()
    updater = Updater(here)
    try:
        yield updater
    finally:
        updater.call("stop")
        here.send("end")
        process.join(60)
        process.kill()


def _serve(pipe: Connection, config: dict[str, Any], addresses: dict[str, Any]) -> None:
    from mind_dist.serving.ray_app import UpdaterReplica  # noqa: PLC0415 - Ray is slow to import, and is for here alone

    replica: Any = None
    while (command := pipe.recv()) != "end":
        answer: dict[str, Any] | None = None
        match command:
            case "start":
                replica = UpdaterReplica(config, addresses)
            case "stop" if replica is not None:
                replica.__del__()
                replica = None
            case "reset":
                for view in replica._follower.parts.values():  # noqa: SLF001 - what was measured before is not asked for
                    view._freshness_s.clear()  # noqa: SLF001 - as above
            case "status":
                answer = {**replica.status(), "cpu_s": time.process_time()}
        pipe.send(answer)


class Work:
    """Events for one updater, and whether it has done them.

    Args:
        producer: Where they are sent.
        updater: Who takes them.
        item_keys: Items that the version knows.
    """

    def __init__(self, producer: EventProducer, updater: Updater, item_keys: Keys) -> None:
        self.updater = updater
        self._producer = producer
        self._items = item_keys
        self._draw = np.random.default_rng(0)
        self._num_sent = 0
        self._time_ms = _TIME_MS + 1_000_000

    def load(self, first: int, end: int) -> Taken:
        """Let users have a history each, and return what that took from the first one applied on."""
        with self.stopped():
            for user in range(first, end):
                items = self._draw.choice(self._items, size=_HISTORY).tolist()
                self._producer.tell(user, [[item, _TIME_MS + 1000 * at] for at, item in enumerate(items)])
            self._producer.flush()
            self._num_sent += end - first
        return self.restarted()

    def send(self, user: int) -> None:
        """Send an event of a user."""
        self._time_ms += 1
        self._producer.send(user, int(self._draw.choice(self._items)), self._time_ms)
        self._num_sent += 1

    def flush(self) -> None:
        """Return when all that was sent is in the log."""
        self._producer.flush()

    def send_some(self, count: int, num_users: int) -> None:
        """Send events of users by chance."""
        for user in self._draw.integers(num_users, size=count).tolist():
            self.send(user)
        self._producer.flush()

    def pace(self, rate: int, seconds: float, num_users: int) -> float:
        """Send events at a pace, and return how many a second it really was."""
        started, count = time.monotonic(), int(rate * seconds)
        for number, user in enumerate(self._draw.integers(num_users, size=count).tolist()):
            ahead_s = started + number / rate - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)
            self.send(user)
        self._producer.flush()
        return count / (time.monotonic() - started)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Collect a backlog while the updater is away."""
        self.updater.call("stop")
        self._num_sent = 0  # a new replica counts from nothing
        yield

    def restarted(self) -> Taken:
        """Start the updater again, and return what the backlog took from the first event applied on."""
        self.updater.call("start")
        while self.updater.status()["states"].get("num_applied", 0) == 0:
            time.sleep(0.02)
        return self.drained()

    def drained(self, is_done: Callable[[dict[str, Any]], bool] | None = None) -> Taken:
        """Return when all that was sent is in the rows, or something else is done, and what that took."""
        started, cpu_s = time.monotonic(), self.updater.status()["cpu_s"]
        while not (is_done or self._is_written)(status := self.updater.status()):
            if time.monotonic() > started + _WITHIN_S:
                raise TimeoutError(f"{self._num_sent} events sent, the updater is at {status}")
            time.sleep(_LOOK_S)
        return Taken(time.monotonic() - started, status["cpu_s"] - cpu_s)

    def _is_written(self, status: dict[str, Any]) -> bool:
        views = status["views"]
        is_applied = status["states"].get("num_applied", 0) >= self._num_sent
        return bool(is_applied and views and not views[0]["num_behind"])
