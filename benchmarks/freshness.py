"""How soon an event shows in its user's row, and how many a second one updater holds, beside the bare clients.

python -m benchmarks.freshness                                    # Tansu and Milvus standalone, started here
KAFKA_HOME=… MIND_DIST_MILVUS=http://127.0.0.1:19530 python -m benchmarks.freshness

One updater replica, in a process of its own, keeps the users of a model `best` of random parameters. Users are known: each has a
history of 50 behaviors. Freshness is from an event's append to the acknowledged upsert of its user's row. "Held" is what it applies a
second, rows written, while a backlog lasts. Beside it, in the same run: a bare loop of kafka-python's polls over the same events, and bare
upserts of the same rows by pymilvus.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.replica_memory import write_version
from benchmarks.retrieval import milvus
from jobs.cli import run
from mind_dist import local_stack
from mind_dist.config import (
    Addresses,
    KafkaConfig,
    MilvusConfig,
    PublishConfig,
    ServingConfig,
    StatesConfig,
    dump,
)
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VectorStore
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_event_topics
from mind_dist.publishing import publish
from mind_dist.records import Keys
from mind_dist.strict_json import to_json

_TIME_MS = 1_700_000_000_000
_HISTORY = 50
_WITHIN_S = 600.0


@dataclass(frozen=True)
class Freshness:
    """Measure one updater."""

    users: int = 10_000
    """Users with a history."""
    items: int = 10_000
    """Items of the version."""
    partitions: int = 4
    """Partitions of the events."""
    rates: tuple[int, ...] = (50, 500, 1000)
    """Events a second at which freshness is measured."""
    seconds: float = 20.0
    """For how long at each."""
    backlog: int = 30_000
    """Events of the backlog by which it is measured what is held."""
    output: Path | None = Path("reports/freshness.json")
    """Write the figures here, too."""
    milvus: MilvusConfig = field(default_factory=MilvusConfig)
    """The vector store."""


def main(job: Freshness) -> None:
    """Measure, print and write."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker, store_name, addresses = _services(stack, scratch)
        kafka = KafkaConfig(f"events-{uuid.uuid4().hex}")
        kafka = replace(kafka, dead_letter_topic=f"{kafka.topic}-dead", states_topic=f"{kafka.topic}-states")
        ensure_event_topics(addresses.kafka, kafka, job.partitions)
        store = stack.enter_context(closing(MilvusVectorStore.at(addresses, job.milvus)))
        uri = write_version(scratch / "version", job.items, "int64")
        encoder = InterestEncoder.load(uri)
        publish(store, encoder, uri, PublishConfig(wait_for_users=False, min_ann_recall=0))
        config = ServingConfig(kafka=kafka, milvus=job.milvus, states=StatesConfig(directory=str(scratch / "states")))
        updater = stack.enter_context(_updating(config, addresses))
        producer = stack.enter_context(closing(EventProducer(addresses.kafka, kafka)))
        measured = _Run(job, producer, updater, encoder.item_keys)
        measured.load()
        found = {
            "broker": broker,
            "store": store_name,
            "rates": [measured.at_rate(rate) for rate in job.rates],
            "held_events_per_s": measured.held(),
            "bare_polls_per_s": _bare_polls(addresses, kafka, job),
            "raw_upserts_per_s": _raw_upserts(store, encoder.model_version),
        }
    Console().print(_table(found))
    if job.output:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.output.write_text(to_json(found, indent=2) + "\n")


def _services(stack: ExitStack, scratch: Path) -> tuple[str, str, Addresses]:
    """Start what the environment does not name."""
    home = os.environ.get("KAFKA_HOME", "")
    log = local_stack.apache_kafka(scratch / "kafka", Path(home)) if home else local_stack.tansu(scratch / "tansu")
    kafka = stack.enter_context(log).address
    addresses = Addresses(kafka=kafka, milvus=stack.enter_context(milvus()))
    return "Apache Kafka" if home else "Tansu", addresses.milvus, addresses


class _Run:
    """Events for one updater, and what it says of itself."""

    def __init__(self, job: Freshness, producer: EventProducer, updater: Callable[[str], Any], item_keys: Keys) -> None:
        self._job = job
        self._producer = producer
        self._updater = updater
        self._items = item_keys
        self._draw = np.random.default_rng(0)
        self._num_sent = 0
        self._time_ms = _TIME_MS + 1_000_000

    def load(self) -> None:
        """Let every user have a history."""
        for user in range(self._job.users):
            items = self._draw.choice(self._items, size=_HISTORY).tolist()
            self._producer.tell(user, [[item, _TIME_MS + 1000 * at] for at, item in enumerate(items)])
        self._producer.flush()
        self._num_sent += self._job.users
        self._wait()

    def at_rate(self, rate: int) -> dict[str, float]:
        """Send events at a pace, and return the freshness of all of them."""
        self._updater("reset")
        started = time.monotonic()
        for number in range(int(rate * self._job.seconds)):
            ahead_s = started + number / rate - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)
            self._send()
        self._producer.flush()
        self._wait()
        [view] = self._updater("status")["views"]
        return {"rate": rate, "p50_ms": view["freshness_ms"]["p50"], "p99_ms": view["freshness_ms"]["p99"]}

    def held(self) -> float:
        """Return how many events of a backlog are applied a second, rows and all, from the first one on."""
        self._updater("stop")
        for _ in range(self._job.backlog):
            self._send()
        self._producer.flush()
        before = self._num_sent - self._job.backlog
        self._updater("start")
        while self._updater("status")["states"].get("num_applied", 0) == 0:
            time.sleep(0.02)
        started = time.monotonic()
        self._num_sent -= before  # a new replica counts from nothing
        self._wait()
        return self._job.backlog / (time.monotonic() - started)

    def _send(self) -> None:
        user, item = int(self._draw.integers(self._job.users)), int(self._draw.choice(self._items))
        self._time_ms += 1
        self._producer.send(user, item, self._time_ms)
        self._num_sent += 1

    def _wait(self) -> None:
        """Return when all that was sent is in the rows."""
        deadline_s = time.monotonic() + _WITHIN_S
        while True:
            status = self._updater("status")
            views = status["views"]
            is_applied = status["states"].get("num_applied", 0) >= self._num_sent
            if is_applied and views and not views[0]["num_behind"]:
                return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self._num_sent} events sent, the updater is at {status}")
            time.sleep(0.02)


@contextmanager
def _updating(config: ServingConfig, addresses: Addresses) -> Iterator[Callable[[str], Any]]:
    """Run an updater replica in a process of its own; yields what does a command there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, dump(config), addresses.shareable()), daemon=True)
    process.start()

    def call(command: str) -> Any:
        here.send(command)
        return here.recv()

    call("start")
    try:
        yield call
    finally:
        call("stop")
        here.send("end")
        process.join(60)
        process.kill()


def _serve(pipe: Connection, config: dict[str, Any], addresses: dict[str, Any]) -> None:
    from mind_dist.serving.ray_app import UpdaterReplica  # noqa: PLC0415 - Ray is slow to import, and is for here alone

    replica: Any = None
    while (command := pipe.recv()) != "end":
        match command:
            case "start":
                replica = UpdaterReplica(config, addresses)
            case "stop" if replica is not None:
                replica.__del__()
                replica = None
            case "reset":
                for view in replica._follower.parts.values():  # noqa: SLF001 - what was measured before is not asked for
                    view._freshness_s.clear()  # noqa: SLF001 - as above
        pipe.send(replica.status() if command == "status" else None)


def _bare_polls(addresses: Addresses, kafka: KafkaConfig, job: Freshness) -> float:
    """Return how many records a second a consumer polls that does nothing else."""
    with closing(KafkaSource(addresses.kafka, kafka, "", partitions=range(job.partitions))) as source:
        ends = source.end_positions()
        source.seek(source.oldest_positions())
        started, count = time.monotonic(), 0
        while any(source.position()[p] < end for p, end in ends.items()):
            count += len(source.poll(0.1))
        return count / (time.monotonic() - started)


def _raw_upserts(store: VectorStore, model_version: str, count: int = 4096, batch: int = 256) -> float:
    """Return how many of the same rows a second are upserted, one batch after the other."""
    rows = [row for _, row in zip(range(count), store.scan_users(model_version), strict=False)]
    started = time.monotonic()
    for start in range(0, len(rows), batch):
        store.upsert_users(model_version, rows[start : start + batch])
    return len(rows) / (time.monotonic() - started)


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['broker']}, {found['store']}: one updater", show_header=False)
    for each in found["rates"]:
        table.add_row(f"{each['rate']:,} events/s: p50 / p99", f"{each['p50_ms']:.0f} / {each['p99_ms']:.0f} ms")
    table.add_row("held, events/s", f"{found['held_events_per_s']:,.0f}")
    table.add_row("bare polls, records/s", f"{found['bare_polls_per_s']:,.0f}")
    table.add_row("raw upserts, rows/s", f"{found['raw_upserts_per_s']:,.0f}")
    return table


if __name__ == "__main__":
    run(Freshness, main)
