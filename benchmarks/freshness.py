"""How soon an event shows in its user's row, and how many a second one updater holds, beside the bare clients.

python -m benchmarks.freshness                                    # Tansu and Milvus standalone, started here
KAFKA_HOME=… MIND_DIST_MILVUS=http://127.0.0.1:19530 python -m benchmarks.freshness

One updater replica, in a process of its own, keeps the users of a model `best` of random parameters, in this order:

    new users   a backlog of events, each of a user nobody has heard of, on an empty store
    loaded      users known already: a record each, with a history of 50 behaviors
    rates       events of these at some rates: how old an event is when its user's row is acknowledged
    burst       ten times as many events for a while, and how long it takes after that until all are in the rows
    held        a backlog of events of these users: how many a second are applied, rows and all
    fill        a second version is published, and its rows are made of all the states there are

Beside it, in the same run: a bare loop of kafka-python's polls over the same events, and bare upserts of the same rows by pymilvus.
`cpu_s` is CPU time of the updater's process alone: broker, Milvus and the producer share the machine with it.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient
from rich.console import Console
from rich.table import Table

from benchmarks.replica_memory import write_version
from benchmarks.retrieval import milvus
from benchmarks.updating import Taken, Work, updating
from jobs.cli import run
from mind_dist import local_stack
from mind_dist.config import (
    Addresses,
    KafkaConfig,
    MilvusConfig,
    PublishConfig,
    ServingConfig,
    StatesConfig,
)
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_event_topics
from mind_dist.publishing import publish
from mind_dist.strict_json import to_json

_FIRST_NEW = 1_000_000_000
"""The first of the users nobody has heard of."""
_CALM_S = 10.0
"""How long before a burst there is none."""


@dataclass(frozen=True)
class Freshness:
    """Measure one updater."""

    users: int = 10_000
    """Users with a history, whose events are sent."""
    new_users: int = 20_000
    """Users with one event each, on the empty store."""
    fill_users: int = 50_000
    """Users with a history when the second version is filled."""
    items: int = 10_000
    """Items of the version."""
    partitions: int = 4
    """Partitions of the events."""
    rates: tuple[int, ...] = (50, 500, 1000)
    """Events a second at which freshness is measured."""
    seconds: float = 20.0
    """For how long at each."""
    burst: int = 500
    """Events a second before a burst, which is ten times that; 0 for none."""
    burst_s: float = 60.0
    """How long it lasts."""
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
        found: dict[str, Any]
        broker, store_name, addresses = _services(stack, scratch)
        kafka = KafkaConfig(f"events-{uuid.uuid4().hex}")
        kafka = replace(kafka, dead_letter_topic=f"{kafka.topic}-dead", states_topic=f"{kafka.topic}-states")
        ensure_event_topics(addresses.kafka, kafka, job.partitions)
        store = stack.enter_context(closing(MilvusVectorStore.at(addresses, job.milvus)))
        encoder = _published(store, scratch / "version", job.items)
        config = ServingConfig(kafka=kafka, milvus=job.milvus, states=StatesConfig(directory=str(scratch / "states")))
        updater = stack.enter_context(updating(config, addresses))
        producer = stack.enter_context(closing(EventProducer(addresses.kafka, kafka)))
        work = Work(producer, updater, encoder.item_keys)
        found = {"broker": broker, "store": store_name}
        found["new_users"] = _new_users(work, job)
        found["loaded_users"] = _per_s(job.users, work.load(0, job.users))
        found["rates"] = [_at_rate(work, rate, job) for rate in job.rates]
        if job.burst:
            found["burst"] = _burst(work, job)
        found["held"] = _held(work, job)
        found["held_events_per_s"] = found["held"]["per_s"]
        found["bare_polls_per_s"] = _bare_polls(addresses, kafka, job)
        found["raw_upserts_per_s"] = _raw_upserts(addresses, encoder.model_version)
        work.load(job.users, job.fill_users)
        encoder = _published(store, scratch / "next", job.items + 1)
        found["fill"] = _fill(work, encoder.model_version, job.fill_users + job.new_users)
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


def _published(store: MilvusVectorStore, directory: Path, num_items: int) -> InterestEncoder:
    uri = write_version(directory, num_items, "int64")
    encoder = InterestEncoder.load(uri)
    publish(store, encoder, uri, PublishConfig(wait_for_users=False, min_ann_recall=0))
    return encoder


def _per_s(count: int, taken: Taken) -> dict[str, float]:
    return {"count": count, "per_s": count / taken.wall_s, "per_cpu_s": count / taken.cpu_s}


def _new_users(work: Work, job: Freshness) -> dict[str, float]:
    with work.stopped():
        for user in range(job.new_users):
            work.send(_FIRST_NEW + user)
        work.flush()
    return _per_s(job.new_users, work.restarted())


def _at_rate(work: Work, rate: int, job: Freshness) -> dict[str, float]:
    work.updater.call("reset")
    work.pace(rate, job.seconds, job.users)
    work.drained()
    return {"rate": rate, **_freshness(work)}


def _freshness(work: Work) -> dict[str, float]:
    [view] = work.updater.status()["views"]
    return {f"{name}_ms": view["freshness_ms"][name] for name in ("p50", "p99")}


def _burst(work: Work, job: Freshness) -> dict[str, float]:
    work.pace(job.burst, _CALM_S, job.users)
    work.updater.call("reset")
    sent_per_s = work.pace(10 * job.burst, job.burst_s, job.users)
    taken = work.drained()
    return {
        "from_per_s": job.burst,
        "sent_per_s": sent_per_s,
        "seconds": job.burst_s,
        "drained_s": taken.wall_s,
        **_freshness(work),
    }


def _held(work: Work, job: Freshness) -> dict[str, float]:
    with work.stopped():
        work.send_some(job.backlog, job.users)
    return _per_s(job.backlog, work.restarted())


def _fill(work: Work, model_version: str, count: int) -> dict[str, float]:
    """Return how many users a second get their rows in a version that has just been published, from its first row on."""

    def view(status: dict[str, Any]) -> dict[str, Any]:
        return next((each for each in status["views"] if each["model_version"] == model_version), {"num_upserts": 0})

    work.drained(lambda status: view(status)["num_upserts"] > 0)
    begun = view(work.updater.status())["num_upserts"]
    return _per_s(count - begun, work.drained(lambda status: not view(status)["num_behind"]))


def _bare_polls(addresses: Addresses, kafka: KafkaConfig, job: Freshness) -> float:
    """Return how many records a second a consumer polls that does nothing else."""
    with closing(KafkaSource(addresses.kafka, kafka, "", partitions=range(job.partitions))) as source:
        ends = source.end_positions()
        source.seek(source.oldest_positions())
        started, count = time.monotonic(), 0
        while any(source.position()[p] < end for p, end in ends.items()):
            count += len(source.poll(0.1))
        return count / (time.monotonic() - started)


def _raw_upserts(addresses: Addresses, model_version: str, count: int = 4096, batch: int = 256) -> float:
    """Return how many of the same rows a second pymilvus upserts by itself, one batch after the other."""
    with closing(MilvusClient(addresses.milvus, timeout=60)) as client:
        users = f"users__{model_version}"
        rows = client.query(users, "user_id >= 0", ["*"], limit=count)
        started = time.monotonic()
        for start in range(0, len(rows), batch):
            client.upsert(users, rows[start : start + batch])
        return len(rows) / (time.monotonic() - started)


_HELD = {
    "held": "held, events/s",
    "new_users": "new users of one event, users/s",
    "loaded_users": "new users of 50 behaviors, users/s",
    "fill": "a version filled, users/s",
}


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['broker']}, {found['store']}: one updater", show_header=False)
    for each in found["rates"]:
        table.add_row(f"{each['rate']:,} events/s: p50 / p99", f"{each['p50_ms']:.0f} / {each['p99_ms']:.0f} ms")
    if burst := found.get("burst"):
        sent = f"{burst['from_per_s']:,.0f} → {burst['sent_per_s']:,.0f} events/s for {burst['seconds']:.0f} s: drained after"
        table.add_row(sent, f"{burst['drained_s']:.1f} s; p50 / p99 {burst['p50_ms']:.0f} / {burst['p99_ms']:.0f} ms")
    for name, title in _HELD.items():
        each = found[name]
        table.add_row(title, f"{each['per_s']:,.0f}; a second of its CPU time {each['per_cpu_s']:,.0f}")
    table.add_row("bare polls, records/s", f"{found['bare_polls_per_s']:,.0f}")
    table.add_row("raw upserts, rows/s", f"{found['raw_upserts_per_s']:,.0f}")
    return table


if __name__ == "__main__":
    run(Freshness, main)
