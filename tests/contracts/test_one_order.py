"""A raw log with ties, duplicates and late events at a real broker: serving and training read the prepared sequences."""

import dataclasses
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mind_dist.config import KafkaConfig, ModelConfig, StatesConfig, ViewsConfig
from mind_dist.examples.events import EventExamples
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.log.codec import PoisonGate
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.source import InMemoryDeadLetters
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import MAX_TIES, BehaviorSequence
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from mind_dist.views.positions import KafkaViewPositions
from mind_dist.views.view import View
from tests.one_order import FEATURES, NUM_PARTITIONS, Behaviors, Line, expected, prepared, told, written
from tests.services import BROKERS
from tests.toy_serving import DIM, INFO, VERSION, ToyEncoder

LENGTH = 5


def raw_log() -> list[Line]:
    """Return baskets of one time each, some of them late, with repeats far from what they repeat."""
    generator = np.random.default_rng(7)
    columns = (generator.integers(0, high, size=600).tolist() for high in (12, 9, 15))
    kinds = generator.choice(["buy", "view"], size=600).tolist()
    return list(zip(*columns, kinds, strict=True))


def served(broker: str, kafka: KafkaConfig, ends: Mapping[int, int], folder: Path) -> Behaviors:
    """Let two owners in turn take the log in, the second on a new disk, and make the rows."""
    store = InMemoryVectorStore()
    encoder = ToyEncoder(LENGTH, ModelConfig(dim=DIM, num_interests=2, behavior_features=FEATURES.behavior))
    store.create_version(
        dataclasses.replace(INFO, max_behaviors=LENGTH + MAX_TIES, behavior_features=FEATURES.behavior)
    )
    for name, until in (("first", {partition: end // 2 for partition, end in ends.items()}), ("second", ends)):
        states = StatesConfig(directory=str(folder / name))
        shared = SharedStores(60)
        with closing(states_on_kafka(broker, kafka, states, "int64", shared=shared)) as owner:
            while not has_come(broker, kafka, until):
                owner.step(0.2)
            if until is ends:
                positions = KafkaViewPositions(broker, kafka, INFO, NUM_PARTITIONS)
                view = View(
                    encoder,
                    store,
                    positions,
                    InMemoryDeadLetters(),
                    states.kept_features,
                    config=ViewsConfig(),
                    metrics=InMemoryMetrics(),
                )
                while view.step(*shared.owned()).num_users:
                    pass
                view.close()
    found = store.scan_users(VERSION)
    return {
        row.user_key: told(BehaviorSequence(0, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys))
        for row in found
    }


def has_come(broker: str, kafka: KafkaConfig, until: Mapping[int, int]) -> bool:
    with closing(KafkaSource(broker, kafka, kafka.updaters_group, partitions=range(NUM_PARTITIONS))) as group:
        stored = group.committed()
    return all(stored.get(partition, 0) >= end for partition, end in until.items())


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
    name = f"events-{uuid.uuid4().hex}"
    config = KafkaConfig(
        name, f"{name}-dead", f"{name}-states", connect_timeout_s=20, max_poll_records=40, group_prefix=name
    )
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
    assert served(broker, config, ends, tmp_path) == truth
    assert trained(broker, config) == truth
