"""A raw log with ties, duplicates and late events at a real broker: serving and training read the prepared sequences."""

import dataclasses
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mind_dist.config import KafkaConfig, ModelConfig
from mind_dist.examples.events import EventExamples
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.log.codec import PoisonGate
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.source import InMemoryDeadLetters
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import MAX_TIES, BehaviorSequence
from mind_dist.serving.updater import UserVectorUpdater
from tests.one_order import FEATURES, NUM_PARTITIONS, Behaviors, Line, expected, prepared, told, written
from tests.services import BROKERS
from tests.toy_serving import DIM, INFO, VERSION, ToyEncoder, toy_config

LENGTH = 5


def raw_log() -> list[Line]:
    """Return baskets of one time each, some of them late, with repeats far from what they repeat."""
    generator = np.random.default_rng(7)
    columns = (generator.integers(0, high, size=600).tolist() for high in (12, 9, 15))
    kinds = generator.choice(["buy", "view"], size=600).tolist()
    return list(zip(*columns, kinds, strict=True))


def served(broker: str, config: KafkaConfig, ends: Mapping[int, int]) -> Behaviors:
    """Let two owners in turn take the log in; the first goes without a word in the middle of it."""
    store = InMemoryVectorStore()
    encoder = ToyEncoder(LENGTH, ModelConfig(dim=DIM, num_interests=2, behavior_features=FEATURES.behavior))
    store.create_version(
        dataclasses.replace(INFO, max_behaviors=LENGTH + MAX_TIES, behavior_features=FEATURES.behavior)
    )
    for until in ({partition: end // 2 for partition, end in ends.items()}, ends):
        source = KafkaSource(broker, config, "updater", partitions=range(NUM_PARTITIONS))
        limits = toy_config(kafka=config)
        letters = InMemoryDeadLetters()
        with closing(
            UserVectorUpdater(encoder, store, source, letters, config=limits, metrics=InMemoryMetrics())
        ) as it:
            while any(source.position()[partition] < end for partition, end in until.items()):
                it.step(0.2)
            if until is not ends:
                source.commit(dict.fromkeys(range(NUM_PARTITIONS), 0))  # as if none of its commits had arrived
    found = store.scan_users(VERSION)
    return {
        row.user_key: told(BehaviorSequence(0, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys))
        for row in found
    }


def trained(broker: str, config: KafkaConfig) -> Behaviors:
    examples = EventExamples(
        lambda partition: KafkaSource(broker, config, "training", partitions=[partition]),
        range(NUM_PARTITIONS),
        "int64",
        InMemoryDeadLetters(),
        PoisonGate(0.5, 1000),
        max_behaviors=LENGTH,
        max_clock_skew_ms=config.max_clock_skew_ms,
        features=FEATURES,
    )
    with closing(examples):
        while not examples.finished():
            for partition in examples.partitions:
                examples.take(partition, 7)
        users = [history.sequence for partition in examples.partitions for history in examples.history(partition)]
    return {user.user_key: told(user) for user in users}


@pytest.mark.parametrize("fixture", BROKERS)
def test_a_log_at_a_broker_gives_the_sequences_that_prepare_gives(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str
) -> None:
    broker, log = request.getfixturevalue(fixture), raw_log()
    config = KafkaConfig(topic=f"events-{uuid.uuid4().hex}", connect_timeout_s=20, max_poll_records=40)
    ensure_topics(broker, {config.topic: NUM_PARTITIONS})
    files = written(tmp_path, log)
    with closing(EventProducer(broker, config)) as producer:
        for event in log:
            producer.send(*event)
    with closing(KafkaSource(broker, config, "ends", partitions=range(NUM_PARTITIONS))) as source:
        ends = source.end_positions()
    users = prepared(tmp_path, files)
    truth = {user: told(sequence.newest(LENGTH)) for user, sequence in users.items()}
    assert truth == expected(log, LENGTH)
    assert served(broker, config, ends) == truth
    assert trained(broker, config) == truth
