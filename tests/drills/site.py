"""Where drills take place: Apache Kafka and a Milvus, started for them, which they may kill, freeze and start again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mind_dist import local_stack
from mind_dist.local_process import LocalProcess
from tests.drills.report import Run
from tests.services import KAFKA_HOME, standalone

T = TypeVar("T")
Store = Literal["standalone", "lite"]


@dataclass(frozen=True)
class Site:
    """Services, and how much a drill shall do.

    Attributes:
        kafka: Apache Kafka.
        milvus: Milvus, of the kind `store`.
        store: Which Milvus.
        folder: For what drills write.
        seed: Where random numbers begin.
        full: Do all of the runs, not a part of each.
        at_once: Runs at the same time.
        records: Of a long log.
    """

    kafka: LocalProcess
    milvus: LocalProcess
    store: Store
    folder: Path
    seed: int = 0
    full: bool = False
    at_once: int = 3
    records: int = 150_000

    def each(self, run: Callable[[T], Run], of: Sequence[T]) -> list[Run]:
        """Do runs, some at the same time; one that raises has a problem."""

        def one(what: T) -> Run:
            try:
                return run(what)
            except Exception as error:  # noqa: BLE001 - the other runs are worth their figures
                return Run(problems=(f"{what}: {type(error).__name__}: {error}",))

        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(one, of))


@contextmanager
def sites(stores: Sequence[Store], folder: Path, **settings: object) -> Iterator[dict[Store, Site]]:
    """Start what is needed, and yield a site for each store."""
    with ExitStack() as stack:
        kafka = stack.enter_context(local_stack.apache_kafka(folder / "kafka", KAFKA_HOME))
        found: dict[Store, Site] = {}
        for store in stores:
            start = standalone if store == "standalone" else local_stack.milvus_lite
            where = folder / store
            where.mkdir(parents=True, exist_ok=True)
            milvus = stack.enter_context(start(where))
            found[store] = Site(kafka, milvus, store, folder / f"on-{store}", **settings)  # type: ignore[arg-type]
        yield found


def signal_all(process: LocalProcess, number: signal.Signals) -> None:
    """Send a signal to a server and what came of it, but not to its supervisor, which would end with it all."""
    assert process._process is not None
    for pid in process.processes() - {process._process.pid}:
        os.kill(pid, number)


def kill_and_restart(process: LocalProcess, away_s: float) -> float:
    """Kill a server with -9, start it again after a while, and return how many seconds it took to be ready."""
    signal_all(process, signal.SIGKILL)
    process.stop()
    time.sleep(away_s)
    started = time.monotonic()
    process.start()
    process.wait_ready()
    return time.monotonic() - started


def eventually(condition: Callable[[], object], timeout_s: float, what: str = "it") -> float:
    """Return how many seconds it took until a condition held.

    Raises:
        TimeoutError: It did not within `timeout_s`.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + timeout_s:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - started


def tell(text: str) -> None:
    """Say to whoever watches how far a drill is."""
    print(f"  {text}", file=sys.stderr, flush=True)
