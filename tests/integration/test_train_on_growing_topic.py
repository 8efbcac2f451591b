"""Training from a topic through Ray Train to its end, also when partitions are added meanwhile.

`MIND_DIST_DRILL_EVENTS=60000` trains on more events than the suite has time for.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from kafka import KafkaAdminClient

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses, KafkaConfig
from mind_dist.data.codec import encode_key
from mind_dist.data.kafka import EventProducer, ensure_topics, num_partitions
from mind_dist.data.kafka_groups import end_positions
from mind_dist.data.partitioner import home_partition, key_hash
from mind_dist.errors import ConfigError
from mind_dist.training import topic_growth
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import TrainProgress
from mind_dist.training.settings import TrainResult, TrainSettings
from tests.services import BROKERS
from tests.toy_training import MODEL, NUM_ITEMS, TRAINING, write_dataset

NUM_EVENTS = int(os.environ.get("MIND_DIST_DRILL_EVENTS", "8000"))
NUM_USERS = 300
QUIET_S = 4.0
"""A followed run that has done no step for so long has trained all that there is."""

where_topics_grow = pytest.mark.parametrize("broker", [b for b in BROKERS if b != "tansu_broker"])
"""Tansu has no CreatePartitions."""


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


class Drill:
    """A topic of four partitions, events for it, and a run that trains on them."""

    def __init__(self, broker: str, path: Path, **changes: object) -> None:
        name = f"events-{uuid.uuid4().hex}"
        self.broker = broker
        self.kafka = KafkaConfig(topic=name, dead_letter_topic=f"{name}-dead")
        ensure_topics(broker, {name: 4})
        generator = np.random.default_rng(7)
        users = generator.integers(1, NUM_USERS + 1, size=NUM_EVENTS).tolist()
        items = generator.integers(1, NUM_ITEMS, size=NUM_EVENTS).tolist()
        self.events = list(zip(users, items, range(NUM_EVENTS), strict=True))
        self.num_sent = 0
        settings = TrainSettings(
            dataset=write_dataset(path / "dataset"),
            storage=str(path / "runs"),
            name="drill",
            source="kafka",
            model=MODEL,
            training=replace(TRAINING, batch_size=128, checkpoint_every_steps=30, every_position=False),
            kafka=self.kafka,
            growth_wait_s=0,
        )
        self.settings = replace(settings, **changes)  # type: ignore[arg-type]

    def send(self, until: int) -> None:
        """Send events up to a number, with a producer that knows the partitions there are now."""
        with closing(EventProducer(self.broker, self.kafka)) as producer:
            for event in self.events[self.num_sent : until]:
                producer.send(*event)
        self.num_sent = until

    def grow(self, partitions: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.broker)) as admin:
            admin.create_partitions({self.kafka.topic: partitions})
        while num_partitions(self.broker, self.kafka.topic) < partitions:
            time.sleep(0.1)

    def train(self) -> TrainResult:
        return train_on_ray(self.settings, Addresses(kafka=self.broker))

    def check(self, result: TrainResult, partitions: int) -> None:
        """Every event was trained exactly once, and each user has one history, where its events come from."""
        version = ModelVersion.open(result.version_uri)
        assert version.manifest.positions == end_positions(self.broker, self.kafka)
        assert sorted(version.manifest.positions) == list(range(partitions))
        num_trained = version.items().counts.sum() + version.waiting().counts.sum()
        assert num_trained == NUM_EVENTS - len({user for user, _, _ in self.events}), "a user's first is no example"
        expected: dict[int, list[int]] = defaultdict(list)
        for user, item, _ in self.events:
            expected[user].append(item)
        found = [(p, history) for p in range(partitions) for history in version.history(p)]
        assert sorted(history.sequence.user_key for _, history in found) == sorted(expected)
        for partition, (sequence, _) in found:
            assert partition == home_partition(key_hash(encode_key(sequence.user_key)), partitions)
            assert sequence.item_keys.tolist() == expected[sequence.user_key][-TRAINING.max_behaviors :]


@pytest.mark.parametrize("broker", BROKERS)
def test_a_topic_is_trained_to_its_end(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path)
    drill.send(NUM_EVENTS)
    drill.check(drill.train(), partitions=4)


@where_topics_grow
def test_a_followed_topic_that_grows_is_trained_in_all_its_partitions(
    broker: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(topic_growth, "_ASK_EVERY_S", 1.0)
    drill = Drill(request.getfixturevalue(broker), tmp_path, follow=True)
    drill.send(NUM_EVENTS // 2)
    step_at_s = {0: time.monotonic()}
    grown_at_s: list[float] = []

    def note(progress: TrainProgress) -> None:
        step_at_s.setdefault(progress.step, time.monotonic())
        if progress.step > 10 and drill.num_sent < NUM_EVENTS:
            drill.grow(5)
            drill.send(NUM_EVENTS)

    def is_quiet() -> bool:
        if not grown_at_s and "going on with all" in caplog.text:
            grown_at_s.append(time.monotonic())
        last_s = max(step_at_s.values())
        return bool(grown_at_s) and last_s > grown_at_s[0] and time.monotonic() - last_s > QUIET_S

    with caplog.at_level(logging.INFO, logger="mind_dist"):
        result = train_on_ray(drill.settings, Addresses(kafka=drill.broker), on_progress=note, should_stop=is_quiet)
    assert f"topic {drill.kafka.topic} has grown from 4 to 5 partitions: going on with all" in caplog.messages
    drill.check(result, partitions=5)


@where_topics_grow
def test_a_run_goes_on_with_a_topic_that_has_grown_since_and_refuses_one_that_was_made_anew(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path, workers=0)
    drill.send(NUM_EVENTS // 3)
    drill.train()
    drill.send(NUM_EVENTS // 2)  # the run has not seen these when the topic grows
    drill.grow(7)
    drill.send(NUM_EVENTS)
    drill.check(drill.train(), partitions=7)
    with closing(KafkaAdminClient(bootstrap_servers=drill.broker)) as admin:
        admin.delete_topics([drill.kafka.topic])
    ensure_topics(drill.broker, {drill.kafka.topic: 3})
    with pytest.raises(ConfigError, match=r"has 3 partitions, the run's version .* stands in 7"):
        drill.train()


@where_topics_grow
def test_a_run_may_begin_with_a_topic_that_had_grown_before(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path, workers=0)
    drill.send(NUM_EVENTS // 3)
    drill.grow(5)
    drill.send(NUM_EVENTS // 2)
    drill.grow(8)
    drill.send(NUM_EVENTS)
    drill.check(drill.train(), partitions=8)
