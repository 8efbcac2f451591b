"""Prepared dataset or raw log → Kafka, in time order, at a pace.

python -m jobs.replay --dataset data/ml-100k --part tail --rate 500
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import track

from jobs.cli import interactive, run
from jobs.past import Past
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.replay import dataset_events, due_s, log_events, pace, rows
from mind_dist.errors import ConfigError
from mind_dist.log.kafka import EventProducer

_FLUSH_EVERY = 5_000  # bounds what waits in memory when the broker is slower than we are


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Replay(Past):
    """Put past events into Kafka, in the order of their times."""

    rate: float = 0.0
    """Events a second; 0 for as fast as possible."""
    speed_up: float = 0.0
    """Or so many times faster than they happened."""

    def check(self) -> None:
        """Refuse settings that contradict each other."""
        super().check()
        if min(self.rate, self.speed_up) < 0 or (self.rate and self.speed_up):
            raise ConfigError("rate", "give at most one of --rate, --speed-up, above 0")


def main(job: Replay) -> int:
    """Replay, and return how many events are stored in Kafka.

    Raises:
        ConfigError: The settings contradict each other.
    """
    job.check()
    events, num_rejected = _events(job)
    bootstrap, topics = job.ready_topics()
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


def _events(job: Replay) -> tuple[pa.Table, int]:
    if job.dataset:
        return dataset_events(PreparedDataset.open(job.dataset), job.part), 0
    return log_events(job.log, job.id_type)


def _command(job: Replay) -> None:
    main(job)


if __name__ == "__main__":
    run(Replay, _command)
