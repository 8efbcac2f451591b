"""The service under steady load on Apache Kafka with silent partitions: `python -m tests.drills.soak --minutes 20`.

8 partitions of which 6 are silent, 2 updater replicas on Ray Serve, 50 zstd-compressed events a second (`--events-per-s`), Milvus Lite.
Afterwards no replica was restarted, every event was applied exactly once (every user's row equals an offline
recomputation, bit for bit), memory is flat and `/readyz` never complained. Prints one line of JSON, and keeps a row of it
with those of the other drills in `reports/drills.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from kafka import KafkaProducer
from kafka.partitioner import murmur2

from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig, StatesConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.local_process import free_ports
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.publishing import publish
from tests.background import Background
from tests.drills.report import keep
from tests.drills.soak_report import REPLICAS, Memory, Report
from tests.kafka_logs import read_all
from tests.versions import tiny_version
from tests.view_oracle import bits, expected_rows

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "kafka"
"""Where Apache Kafka may be, beside the repository, if `KAFKA_HOME` does not say where."""

PARTITIONS = 8
BUSY = (2, 5)
"""One of each replica's partitions; the other six stay silent."""
USERS = 200
EVENTS_PER_S = 50
BATCH_S = 0.1
SAMPLE_S = 2.0


class Watch(Background):
    """Samples the replicas' memory and `/readyz` while it is entered."""

    def __init__(self, url: str, pids: set[int]) -> None:
        super().__init__()
        self.memory = {pid: Memory() for pid in pids}
        self.not_ready = 0
        self.warnings: set[str] = set()
        self._url = url

    def work(self) -> None:
        started = time.monotonic()
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self.ended.wait(SAMPLE_S):
                for pid, memory in self.memory.items():
                    memory.seconds.append(time.monotonic() - started)
                    memory.megabytes.append(resident_mb(pid))
                self._look(client)

    def _look(self, client: httpx.Client) -> None:
        try:
            answer = client.get("/readyz")
        except httpx.HTTPError as error:
            self.not_ready += 1
            self.warnings.add(repr(error))
            return
        self.not_ready += answer.status_code != httpx.codes.OK
        self.warnings |= {f"{each['name']}: {each['message']}" for each in answer.json()["warnings"]}


def resident_mb(pid: int) -> float:
    """Return a process' resident memory; 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy_users() -> list[int]:
    """Return users whose events go to the busy partitions, by the partitioner that all our producers use."""
    places = ((user, (murmur2(encode_key(user)) & 0x7FFFFFFF) % PARTITIONS) for user in itertools.count())
    return list(itertools.islice((user for user, partition in places if partition in BUSY), USERS))


def send_events(bootstrap: str, topic: str, num_items: int, duration_s: float, per_s: int) -> int:
    """Send events at a steady pace, several to a compressed batch, and return how many."""
    draw, users, sent = random.Random(7), busy_users(), 0
    settings = {"compression_type": "zstd", "linger_ms": 20, "acks": "all"}
    with closing(KafkaProducer(bootstrap_servers=bootstrap, **settings)) as producer:
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < duration_s:
            while sent < elapsed * per_s:
                user, item = draw.choice(users), draw.randrange(num_items)
                producer.send(topic, key=encode_key(user), value=encode_event(user, item, 1_700_000_000_000 + sent))
                sent += 1
            time.sleep(BATCH_S)
        producer.flush()
    return sent


def eventually(condition: Callable[[], object], timeout_s: float) -> None:
    """Return when a condition holds; after `timeout_s` in any case, so that the report shows what is missing."""
    give_up = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.5)


class Replicas:
    """The updater's replicas, asked by way of Serve."""

    def __init__(self) -> None:
        from ray import serve  # noqa: PLC0415 - Ray reads its token when it is imported

        from mind_dist.serving.ray_app import APPLICATION, UPDATER  # noqa: PLC0415 - imports Ray

        self._handle = serve.get_deployment_handle(UPDATER, APPLICATION)

    def statuses(self) -> list[dict[str, Any]]:
        """Return each replica's status, once it has been asked."""
        found = {}
        for _ in range(20 * REPLICAS):  # each call reaches one at random
            status = self._handle.status.remote().result(timeout_s=30)
            found[status["replica"]] = status
            if len(found) == REPLICAS:
                break
        return list(found.values())

    def own_all(self) -> bool:
        """Tell whether all partitions have an owner."""
        return sum(len(status["states"].get("partitions", ())) for status in self.statuses()) == PARTITIONS

    def have_applied(self, num_events: int) -> bool:
        """Tell whether so many events are applied, and all rows written."""
        statuses = self.statuses()
        applied = sum(status["states"]["num_applied"] for status in statuses)
        return applied >= num_events and not any(view["num_behind"] for each in statuses for view in each["views"])

    @staticmethod
    def processes() -> dict[str, int]:
        """Return the updater's replicas that ever were, actor id → process; 0 where it has none any more."""
        from ray.util.state import list_actors  # noqa: PLC0415 - Ray reads its token when it is imported

        from mind_dist.serving.ray_app import UPDATER  # noqa: PLC0415 - imports Ray

        actors = list_actors(limit=10_000)
        return {actor.actor_id: actor.pid or 0 for actor in actors if actor.name and f"#{UPDATER}#" in actor.name}


def soak(addresses: Addresses, directory: Path, duration_s: float, per_s: int = EVENTS_PER_S) -> Report:
    """Run the service on a connected Ray for a while, and return what came of it.

    Args:
        addresses: An Apache Kafka and an empty Milvus.
        directory: For the model version.
        duration_s: How long events are sent.
        per_s: Events a second.
    """
    from jobs.serve import deploy, take_down  # noqa: PLC0415 - imports Ray

    topic = f"soak-{uuid.uuid4().hex[:8]}"
    kafka = KafkaConfig(topic, f"{topic}-dead", f"{topic}-states")
    [port] = free_ports(1)
    config = ServingConfig(
        kafka=kafka,
        milvus=MilvusConfig(),
        states=StatesConfig(directory=str(directory / "states")),
        port=port,
        num_updaters=REPLICAS,
        cpus_per_replica=0.1,
        version_poll_s=0.5,
    )
    ensure_event_topics(addresses.kafka, kafka, PARTITIONS)
    uri = tiny_version(directory / "version", seed=5)
    encoder = InterestEncoder.load(uri)
    before = Replicas.processes()
    with closing(MilvusVectorStore.at(addresses, config.milvus)) as store:
        publish(store, encoder, uri)
        try:
            url = deploy(config, addresses, timeout_s=120)
            replicas = Replicas()
            eventually(replicas.own_all, 60)
            first = {actor: pid for actor, pid in Replicas.processes().items() if actor not in before}
            with Watch(url, set(first.values())) as watch:
                num_sent = send_events(addresses.kafka, topic, 60, duration_s, per_s)
                eventually(lambda: replicas.have_applied(num_sent), 60)
            statuses = replicas.statuses()
            restarts = len(Replicas.processes().keys() - before.keys() - first.keys())
        finally:
            take_down()
        rows = {row.user_key: bits(row) for row in store.scan_users(encoder.model_version)}
        of_states = dataclasses.replace(kafka, topic=kafka.states_topic)
        events, states = (read_all(addresses.kafka, each, PARTITIONS) for each in (kafka, of_states))
        expected = expected_rows(events, states, encoder, config.states.max_history)
    return Report(
        duration_s,
        num_sent,
        sum(status["states"]["num_applied"] for status in statuses),
        sum(status["states"]["num_skipped"] for status in statuses),
        sum(view["num_repairs"] for status in statuses for view in status["views"]),
        len(expected),
        sum(rows.get(user) != row for user, row in expected.items()) + len(rows.keys() - expected.keys()),
        restarts,
        {str(pid): memory.summary() for pid, memory in watch.memory.items()},
        [view["freshness_ms"] for status in statuses for view in status["views"]],
        watch.not_ready,
        sorted(watch.warnings),
    )


@contextmanager
def stack(directory: Path) -> Iterator[Addresses]:
    """Start Apache Kafka, Milvus Lite and Ray, connect to Ray, and yield the addresses of the others."""
    from mind_dist.local_stack import LocalStack  # noqa: PLC0415 - not needed where services are given

    with LocalStack.start(
        directory, environment={"KAFKA_HOME": os.environ.get("KAFKA_HOME", str(_BESIDE))}
    ) as services:
        os.environ.update(services.environment)  # before Ray is imported: it looks at its token then
        from jobs.cli import connect_ray  # noqa: PLC0415 - imports Ray

        connect_ray(show_workers=False)
        yield services.addresses


def main() -> int:
    """Soak for `--minutes`, print and write the report, and return 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--events-per-s", type=int, default=EVENTS_PER_S)
    parser.add_argument("--output", type=Path, default=Path("reports/soak.json"))
    arguments = parser.parse_args()
    directory = Path(".mind_dist/soak")
    with stack(directory) as addresses:
        report = soak(addresses, directory / uuid.uuid4().hex, arguments.minutes * 60, arguments.events_per_s)
    line = json.dumps(dataclasses.asdict(report))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(line + "\n")
    keep(report.outcome().row(), arguments.output.with_name("drills.json"))
    print(line)
    for problem in report.problems():
        print(f"error: {problem}", file=sys.stderr)
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
