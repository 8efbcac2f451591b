"""Prepared dataset or raw log → Kafka, in time order, at a pace.

python -m jobs.replay --dataset data/ml-100k --part tail --rate 500
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import track

from jobs.cli import interactive, run
from mind_dist.config import Addresses, KafkaConfig, LogConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.replay import Part, dataset_events, due_s, log_events, pace, rows
from mind_dist.errors import ConfigError
from mind_dist.keys import IdType
from mind_dist.log.kafka import EVENT_PARTITIONS, EventProducer, ensure_event_topics

_FLUSH_EVERY = 5_000  # bounds what waits in memory when the broker is slower than we are


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Replay:
    """Put past events into Kafka, in the order of their times."""

    dataset: str = ""
    """URI of a prepared dataset, or"""
    log: LogConfig = field(default_factory=LogConfig)
    """a raw log."""
    id_type: IdType = "int64"
    """What the ids of a raw log are; a dataset knows its own."""
    part: Part = "all"
    """Of a dataset: all, the tail that evaluation holds out of the valid and test users' histories, or the inputs, all but that."""
    rate: float = 0.0
    """Events a second; 0 for as fast as possible."""
    speed_up: float = 0.0
    """Or so many times faster than they happened."""
    partitions: int = EVENT_PARTITIONS
    """Partitions of the events' topic, if it is not there yet; the default is that of cluster/topics.yaml."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Topics."""


def main(job: Replay) -> int:
    """Replay, and return how many events are stored in Kafka.

    Raises:
        ConfigError: The settings contradict each other.
    """
    _check(job)
    addresses = Addresses.from_environment()
    bootstrap, topics = addresses.kafka, job.kafka.of_deployment(addresses.deployment)
    events, num_rejected = _events(job)
    ensure_event_topics(bootstrap, topics, job.partitions)
    paced = zip(pace(due_s(events, rate=job.rate, speed_up=job.speed_up)), rows(events), strict=True)
    console = Console(stderr=True)
    with closing(EventProducer(bootstrap, topics)) as producer:
        for number, event in track(paced, "replay", events.num_rows, console=console, disable=not interactive()):
            producer.send(*event)
            if number % _FLUSH_EVERY == 0:
                producer.flush()
    unusable = f"; {num_rejected:,} rows were unusable" if num_rejected else ""
    Console().print(f"{events.num_rows:,} events are in {topics.topic} at {bootstrap}{unusable}")
    return int(events.num_rows)


def _check(job: Replay) -> None:
    if bool(job.dataset) == bool(job.log.paths):
        raise ConfigError("dataset", "give one of --dataset, --log.paths")
    if job.log.paths and job.part != "all":
        raise ConfigError("part", "a raw log has no tail held out")
    if min(job.rate, job.speed_up) < 0 or (job.rate and job.speed_up):
        raise ConfigError("rate", "give at most one of --rate, --speed-up, above 0")
    if job.partitions < 1:
        raise ConfigError("partitions", "must be at least 1")


def _events(job: Replay) -> tuple[pa.Table, int]:
    if job.dataset:
        return dataset_events(PreparedDataset.open(job.dataset), job.part), 0
    return log_events(job.log, job.id_type)


def _command(job: Replay) -> None:
    main(job)


if __name__ == "__main__":
    run(Replay, _command)
