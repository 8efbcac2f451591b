"""Prepared dataset or raw log → what is known of its users, as history records in the events' topic.

python -m jobs.load_users --dataset data/ml-100k --part inputs
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import track

from jobs.cli import interactive, run
from mind_dist.config import Addresses, KafkaConfig, LogConfig
from mind_dist.dataset.known_users import KnownUser, users_of_dataset, users_of_events
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.replay import Part, log_events
from mind_dist.errors import ConfigError
from mind_dist.keys import IdType
from mind_dist.log.kafka import EVENT_PARTITIONS, EventProducer, ensure_event_topics

_FLUSH_EVERY = 2_000  # bounds what waits in memory when the broker is slower than we are


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class LoadUsers:
    """Let the service know users that it has no events of."""

    dataset: str = ""
    """URI of a prepared dataset, or"""
    log: LogConfig = field(default_factory=LogConfig)
    """a raw log."""
    id_type: IdType = "int64"
    """What the ids of a raw log are; a dataset knows its own."""
    part: Part = "all"
    """Of a dataset: all, or the inputs alone, which leaves what evaluation and a replay of the tail are to find."""
    max_behaviors: int = 200
    """Newest behaviors of each user that are told; serving.states.max_history says how many are kept."""
    partitions: int = EVENT_PARTITIONS
    """Partitions of the events' topic, if it is not there yet; the default is that of cluster/topics.yaml."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Topics."""


def main(job: LoadUsers) -> int:
    """Write the records, and return how many users are in Kafka.

    Raises:
        ConfigError: The settings contradict each other.
    """
    _check(job)
    addresses = Addresses.from_environment()
    bootstrap, topics = addresses.kafka, job.kafka.of_deployment(addresses.deployment)
    users, num_rejected = _users(job)
    ensure_event_topics(bootstrap, topics, job.partitions)
    console = Console(stderr=True)
    number = 0
    with closing(EventProducer(bootstrap, topics)) as producer:
        for number, user in enumerate(track(users, "users", console=console, disable=not interactive()), start=1):
            producer.tell(user.user_id, user.behaviors, user.profile)
            if number % _FLUSH_EVERY == 0:
                producer.flush()
    unusable = f"; {num_rejected:,} rows were unusable" if num_rejected else ""
    Console().print(f"what is known of {number:,} users is in {topics.topic} at {bootstrap}{unusable}")
    return number


def _check(job: LoadUsers) -> None:
    if bool(job.dataset) == bool(job.log.paths):
        raise ConfigError("dataset", "give one of --dataset, --log.paths")
    if job.log.paths and job.part != "all":
        raise ConfigError("part", "a raw log has no tail held out")
    for name in ("max_behaviors", "partitions"):
        if getattr(job, name) < 1:
            raise ConfigError(name, "must be at least 1")


def _users(job: LoadUsers) -> tuple[Iterator[KnownUser], int]:
    if job.dataset:
        return users_of_dataset(PreparedDataset.open(job.dataset), job.part, job.max_behaviors), 0
    events, num_rejected = log_events(job.log, job.id_type)
    return users_of_events(events, job.max_behaviors), num_rejected


def _command(job: LoadUsers) -> None:
    main(job)


if __name__ == "__main__":
    run(LoadUsers, _command)
