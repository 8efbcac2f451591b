"""Prepared dataset or raw log → what is known of its users, as history records in the events' topic.

python -m jobs.load_users --dataset data/ml-100k --part inputs
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import track

from jobs.cli import interactive, run
from jobs.past import Past
from mind_dist.dataset.known_users import KnownUser, users_of_dataset, users_of_events
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.replay import log_events
from mind_dist.errors import ConfigError
from mind_dist.log.kafka import EventProducer

_FLUSH_EVERY = 2_000  # bounds what waits in memory when the broker is slower than we are


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class LoadUsers(Past):
    """Let the service know users that it has no events of."""

    max_behaviors: int = 200
    """Newest behaviors of each user that are told; serving.states.max_history says how many are kept."""

    def check(self) -> None:
        """Refuse settings that contradict each other, or are none."""
        super().check()
        if self.part == "tail":
            raise ConfigError("part", "a tail is no history: give all or inputs, and let jobs.replay bring the tail")
        if self.max_behaviors < 1:
            raise ConfigError("max_behaviors", "must be at least 1")


def main(job: LoadUsers) -> int:
    """Write the records, and return how many users are in Kafka.

    Raises:
        ConfigError: The settings contradict each other.
    """
    job.check()
    users, num_rejected = _users(job)
    bootstrap, topics = job.ready_topics()
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


def _users(job: LoadUsers) -> tuple[Iterator[KnownUser], int]:
    if job.dataset:
        return users_of_dataset(PreparedDataset.open(job.dataset), job.part, job.max_behaviors), 0
    events, num_rejected = log_events(job.log, job.id_type)
    return users_of_events(events, job.max_behaviors), num_rejected


def _command(job: LoadUsers) -> None:
    main(job)


if __name__ == "__main__":
    run(LoadUsers, _command)
