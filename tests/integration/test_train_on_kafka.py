"""Training from real brokers: a crash changes nothing, and every position and poison record is accounted for."""

from __future__ import annotations

import dataclasses
import uuid
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from kafka import KafkaProducer

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import KafkaSource, ensure_topics
from mind_dist.log.source import InMemoryLog
from mind_dist.storage import Directory
from mind_dist.training.collectives import SingleRank
from mind_dist.training.open_run import open_run
from mind_dist.training.run import TrainingRun
from mind_dist.training.settings import TrainSettings
from mind_dist.training.topic_growth import Stage, stages
from tests.growing_topic import GROWING_BROKERS, NUM_EVENTS, Drill
from tests.services import BROKERS
from tests.toy_training import FROM_LOG, NUM_BUCKETS, READING, toy_log, write_dataset


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
def topic(broker: str) -> KafkaConfig:
    name = f"events-{uuid.uuid4().hex}"
    config = KafkaConfig(topic=name, dead_letter_topic=f"{name}-dead", max_poll_records=7)
    ensure_topics(broker, {config.topic: NUM_BUCKETS, config.dead_letter_topic: 1})
    write_log(broker, config.topic, toy_log(poison_every=11, told=True))
    return config


def write_log(broker: str, topic: str, log: InMemoryLog) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker)) as producer:
        for partition in range(log.num_partitions):
            for record in log.read(partition, 0, 10_000):
                producer.send(topic, key=record.key, value=record.value, partition=partition)


def finish(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    run.save(Directory.at(path))
    run.commit()
    run.examples.close()
    return ModelVersion.open(str(path))


def test_resume_from_a_broker_gives_the_same_version_as_an_uninterrupted_run(
    broker: str, topic: KafkaConfig, tmp_path: Path
) -> None:
    settings = TrainSettings(
        dataset=write_dataset(tmp_path / "dataset", told=True),
        storage=str(tmp_path),
        name=topic.topic,
        source="kafka",
        model=READING,
        training=dataclasses.replace(FROM_LOG, admission_count=2),
        kafka=topic,
    )

    def open_at(saved: ModelVersion | None) -> TrainingRun:
        return open_run(settings, broker, saved, SingleRank(), torch.device("cpu"))

    whole = finish(open_at(None), tmp_path / "whole")
    crashed = open_at(None)
    for report in islice(crashed.steps(), 6):
        if report.step == 4:
            crashed.save(Directory.at(tmp_path / "saved"))
    crashed.examples.close()
    resumed = finish(open_at(ModelVersion.open(str(tmp_path / "saved"))), tmp_path / "resumed")
    log = toy_log(poison_every=11, told=True)
    assert resumed.manifest.files == whole.manifest.files
    assert resumed.manifest.positions == {partition: log.end(partition) for partition in range(NUM_BUCKETS)}
    with closing(KafkaSource(broker, topic, settings.group, partitions=range(NUM_BUCKETS))) as monitor:
        assert monitor.committed() == resumed.manifest.positions
    dead_letters = topic.dead_letter_topic
    with closing(KafkaSource(broker, KafkaConfig(topic=dead_letters), "reader", partitions=[0])) as letters:
        num_poison = sum(1 for p in range(NUM_BUCKETS) for r in log.read(p, 0, 10_000) if r.value == b"{")
        assert letters.end_positions()[0] >= 2 * num_poison


@pytest.mark.parametrize("broker", GROWING_BROKERS, indirect=True)
def test_a_run_over_a_topic_that_grew_twice_trains_each_event_once_and_splits_no_history(
    broker: str, tmp_path: Path
) -> None:
    drill = Drill(broker, tmp_path)
    drill.send(NUM_EVENTS // 4)

    def train(name: str, stage: Stage, saved: ModelVersion | None) -> ModelVersion:
        run = open_run(drill.settings, broker, saved, SingleRank(), torch.device("cpu"), stage=stage)
        return finish(run, tmp_path / name)

    version = train("begun", Stage(4), None)
    drill.grow(5)
    drill.send(NUM_EVENTS // 2)
    drill.grow(8)
    drill.send(NUM_EVENTS)
    first, second, third = stages(broker, drill.kafka, 4, 8)
    assert (first.num_partitions, second, third) == (4, Stage(5), Stage(8))
    version = train("of 4", first, version)
    assert version.manifest.part_trained, "most users' events are in other partitions now"
    drill.check(train("of 8", third, train("of 5", second, version)), partitions=8)
