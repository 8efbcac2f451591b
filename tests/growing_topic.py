"""A topic that can grow, events for it, and what a version must be that was trained on all of them."""

from __future__ import annotations

import os
import time
import uuid
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import KafkaConfig
from mind_dist.log.codec import encode_key
from mind_dist.log.kafka import EventProducer, ensure_topics, num_partitions
from mind_dist.log.kafka_groups import end_positions
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.training.settings import TrainSettings
from tests.services import BROKERS
from tests.toy_training import FROM_LOG, MODEL, NUM_ITEMS, write_dataset

NUM_EVENTS = int(os.environ.get("MIND_DIST_DRILL_EVENTS", "8000"))
NUM_USERS = 300

GROWING_BROKERS = [broker for broker in BROKERS if broker != "tansu_broker"]
"""Tansu has no CreatePartitions."""


class Drill:
    """A topic of four partitions, events for it, and a run that trains on them."""

    def __init__(self, broker: str, path: Path, **changes: object) -> None:
        name = f"events-{uuid.uuid4().hex}"
        self.broker = broker
        self.kafka = KafkaConfig(topic=name, dead_letter_topic=f"{name}-dead")
        ensure_topics(broker, {name: 4, self.kafka.dead_letter_topic: 1})
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
            training=replace(FROM_LOG, batch_size=128, checkpoint_every_steps=30),
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
        """Add partitions, some time after events were sent last: when a topic grows twice, times tell the stages."""
        time.sleep(1.5)
        with closing(KafkaAdminClient(bootstrap_servers=self.broker)) as admin:
            admin.create_partitions({self.kafka.topic: partitions})
        while num_partitions(self.broker, self.kafka.topic) < partitions:
            time.sleep(0.1)

    def check(self, version: ModelVersion, partitions: int) -> None:
        """Every event was trained exactly once, and each user has one history, where its events come from."""
        assert version.manifest.positions == end_positions(self.broker, self.kafka)
        assert sorted(version.manifest.positions) == list(range(partitions))
        assert version.manifest.part_trained == {}
        num_trained = version.items().counts.sum() + version.waiting().counts.sum()
        assert num_trained == NUM_EVENTS - len({user for user, _, _ in self.events}), "a user's first is no example"
        expected: dict[int, list[int]] = defaultdict(list)
        for user, item, _ in self.events:
            expected[user].append(item)
        found = [(p, history) for p in range(partitions) for history in version.history(p)]
        assert sorted(history.sequence.user_key for _, history in found) == sorted(expected)
        for partition, (sequence, _) in found:
            assert partition == home_partition(key_hash(encode_key(sequence.user_key)), partitions)
            assert sequence.item_keys.tolist() == expected[sequence.user_key][-FROM_LOG.max_behaviors :]
