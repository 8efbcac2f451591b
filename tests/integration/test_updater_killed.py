"""An updater process killed with -9 again and again, on a real broker and real Milvus servers."""

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mind_dist.encoder import InterestEncoder
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import MAX_TIES, Record
from mind_dist.serving.updater import UserVectorUpdater
from tests.toy_serving import bits
from tests.updater_process import PARTITIONS, serving_config
from tests.versions import tiny_version

USERS, EVENTS, KILLS = 40, 600, 2
REPOSITORY = Path(__file__).parents[2]


@contextmanager
def running(*arguments: str) -> Iterator[None]:
    """Run an updater process, and kill it at the end."""
    process = subprocess.Popen([sys.executable, "-m", "tests.updater_process", *arguments], cwd=REPOSITORY)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def produce(kafka: str, topic: str) -> None:
    """Write events, duplicates, late ones, tombstones and poison."""
    draw = random.Random(5)
    with closing(EventProducer(kafka, serving_config(topic).kafka)) as producer:
        for time_ms in range(EVENTS):
            user, item = draw.randrange(USERS), draw.randrange(70)
            if draw.random() < 0.01:
                producer.forget(user)
            elif draw.random() < 0.01:
                producer.send(user, "poison", time_ms)
            else:
                producer.send(user, item, time_ms - draw.choice([0, 0, 0, 50]) if time_ms > 50 else 0)


def read_log(kafka: str, topic: str) -> InMemoryLog:
    """Return all records of the topic."""
    log = InMemoryLog(PARTITIONS)
    source = KafkaSource(kafka, serving_config(topic).kafka, "reader", partitions=range(PARTITIONS))
    with closing(source):
        ends = source.end_positions()
        records: list[Record] = []
        while source.position() != ends:
            records += source.poll(0.1)
    for record in records:
        assert log.append(record.key, record.value, record.partition) == record.offset
    return log


def expected_rows(log: InMemoryLog, info: VersionInfo, encoder: InterestEncoder) -> dict[int, tuple[object, ...]]:
    """Return the rows after an uninterrupted run in memory."""
    store = InMemoryVectorStore()
    store.create_version(info)
    updater = UserVectorUpdater(
        encoder,
        store,
        InMemorySource(log, "uninterrupted"),
        InMemoryDeadLetters(),
        config=serving_config("memory"),
        metrics=InMemoryMetrics(),
    )
    while updater.step(0).num_records:
        pass
    return {row.user_key: bits(row) for row in store.scan_users(info.model_version)}


@pytest.mark.parametrize("milvus", ["milvus_lite", "milvus_standalone"])
def test_an_updater_process_killed_again_and_again_ends_in_the_same_rows(
    tansu_broker: str, milvus: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: str = request.getfixturevalue(milvus)
    topic = f"killed-{uuid.uuid4().hex[:8]}"
    config = serving_config(topic).kafka
    ensure_topics(tansu_broker, {topic: PARTITIONS, config.dead_letter_topic: 1})
    encoder = InterestEncoder.load(tiny_version(tmp_path, seed=100 + len(milvus)))
    info = VersionInfo(encoder.model_version, 8, 3, "cosine", str(tmp_path), encoder.max_behaviors + MAX_TIES)
    with closing(MilvusVectorStore(server, serving_config(topic).milvus)) as store:
        store.create_version(info)
        produce(tansu_broker, topic)
        log = read_log(tansu_broker, topic)
        arguments = (tansu_broker, server, topic, str(tmp_path))
        committed = KafkaSource(tansu_broker, config, config.group(encoder.model_version), partitions=range(PARTITIONS))
        with closing(committed):
            advance = 0
            for kill in range(KILLS):
                with running(*arguments):
                    target = EVENTS * (kill + 1) // (KILLS + 2)
                    advance = wait_for(committed, target)
            assert advance < EVENTS, "killed too late to show anything"
            with running(*arguments):
                wait_for(committed, sum(log.end(partition) for partition in range(PARTITIONS)))
        rows = {row.user_key: bits(row) for row in store.scan_users(info.model_version)}
        assert rows == expected_rows(log, info, encoder)
        store.drop_version(info.model_version)


def wait_for(source: KafkaSource, total: int, timeout_s: float = 120.0) -> int:
    """Return when the group has stored positions that sum up to `total` or more."""
    give_up = time.monotonic() + timeout_s
    while (stored := sum(source.committed().values())) < total:
        assert time.monotonic() < give_up, f"stands at {stored} of {total}"
        time.sleep(0.02)
    return stored
