"""Where the updaters stand in each partition of the events, and how one that has stopped goes on.

python -m jobs.partitions
python -m jobs.partitions --go-on 3 5
python -m jobs.partitions --reset 3=120400 5=oldest
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.table import Table

from jobs.cli import run
from jobs.tables import print_whole
from mind_dist.config import Addresses, KafkaConfig
from mind_dist.errors import ConfigError, PositionLost
from mind_dist.log.kafka import KafkaSource, num_partitions
from mind_dist.log.kafka_groups import lags
from mind_dist.log.kafka_topics import count_partitions, log_identity
from mind_dist.log.kafka_transactions import KafkaTransactions
from mind_dist.log.transactions import NewRecord
from mind_dist.states.note import Note
from mind_dist.states.partition import EVENTS_LOG_KEY


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Partitions:
    """Show where the updaters stand, or let stopped partitions go on; the service may run meanwhile."""

    go_on: tuple[int, ...] = ()
    """Partitions to go on with from where they stopped, once the cause is mended: poison that is left is dead-lettered."""
    reset: tuple[str, ...] = ()
    """Partitions to go on with from elsewhere: PARTITION=POSITION, PARTITION=oldest or PARTITION=end. What lies between is
    lost, or comes again, and is skipped where it is known."""
    force: bool = False
    """Also reset partitions that do not say that they have stopped: a laptop's broker (Tansu) keeps no word of it. The owner of
    one that is at work takes no notice."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Topics."""


@dataclass(frozen=True)
class _Stand:
    oldest: int
    stored: int | None
    end: int
    lag: int
    note: Note

    @property
    def state(self) -> str:
        if self.note.stopped:
            return f"stopped: {self.note.stopped}"
        return "lost: the log's oldest record is newer" if self.stored is not None and self.stored < self.oldest else ""


def main(job: Partitions) -> None:
    """Do what is asked for, then show how it stands.

    Raises:
        ConfigError: A partition is none, or has not stopped, or a position is none.
    """
    addresses = Addresses.from_environment()
    kafka = job.kafka.of_deployment(addresses.deployment)
    stands = _stands(addresses.kafka, kafka)
    positions = _wanted(job, stands)
    if positions:
        with closing(KafkaTransactions(addresses.kafka, kafka, f"{kafka.updaters_group}-{uuid.uuid4().hex}")) as log:
            name = str(log_identity(addresses.kafka, kafka.topic, timeout_s=kafka.connect_timeout_s)).encode()
            count = count_partitions(addresses.kafka, kafka.states_topic, timeout_s=kafka.connect_timeout_s)
            with_states = [partition for partition in positions if partition < count]  # none are kept in added ones
            names = [NewRecord(kafka.states_topic, partition, EVENTS_LOG_KEY, name) for partition in with_states]
            forgiven = {p: Note(forgiven_to=stands[p].end).to_text() for p in positions}  # what is there counts no more
            log.put(kafka.updaters_group, positions, names, forgiven)
        Console().print(f"partitions {', '.join(map(str, sorted(positions)))} go on within some seconds")
        stands = _stands(addresses.kafka, kafka)
    print_whole(_table(stands))


def _wanted(job: Partitions, stands: Mapping[int, _Stand]) -> dict[int, int]:
    """Return where partitions are to go on."""
    wanted: dict[int, str] = dict.fromkeys(job.go_on, "")
    for text in job.reset:
        partition, equals, place = text.partition("=")
        if not partition.isdecimal() or not equals:
            raise ConfigError("reset", f"{text!r} must be PARTITION=POSITION, PARTITION=oldest or PARTITION=end")
        wanted[int(partition)] = place
    return {partition: _position(partition, place, stands, force=job.force) for partition, place in wanted.items()}


def _position(partition: int, place: str, stands: Mapping[int, _Stand], *, force: bool) -> int:
    if partition not in stands:
        raise ConfigError("partitions", f"there is no partition {partition}: they are 0 … {len(stands) - 1}")
    stand = stands[partition]
    if not stand.state and not force:
        problem = f"partition {partition} has not stopped: its owner would store its own position again"
        raise ConfigError("partitions", f"{problem}; end the service first and add --force, if it must go elsewhere")
    if place == "":
        return stand.oldest if stand.stored is None else stand.stored
    named = {"oldest": stand.oldest, "end": stand.end}
    if place not in named and not place.isdecimal():
        raise ConfigError("reset", f"{place!r} is no position: give a number, oldest or end")
    position = named[place] if place in named else int(place)
    if not stand.oldest <= position <= stand.end:
        raise ConfigError(
            "reset", f"partition {partition} has the positions {stand.oldest} … {stand.end}, not {position}"
        )
    return position


def _stands(bootstrap: str, kafka: KafkaConfig) -> dict[int, _Stand]:
    count = num_partitions(bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s)
    with closing(KafkaSource(bootstrap, kafka, kafka.updaters_group, partitions=range(count))) as source:
        stored, notes = source.committed(), source.notes()
        oldest, ends = source.oldest_positions(), source.end_positions()
    behind = {p: ends[p] - max(oldest[p], stored.get(p, 0)) for p in range(count)}
    with suppress(PositionLost):  # what is lost is shown as that
        behind = lags(bootstrap, kafka, kafka.updaters_group, ends)
    return {p: _Stand(oldest[p], stored.get(p), ends[p], behind[p], Note.of_text(notes[p])) for p in range(count)}


def _table(stands: Mapping[int, _Stand]) -> Table:
    table = Table("partition", "oldest", "applied up to", "end", "lag", "poison lately", "state")
    for partition, stand in sorted(stands.items()):
        num_poison, num_records = stand.note.counted
        table.add_row(
            str(partition),
            f"{stand.oldest:,}",
            "nothing yet" if stand.stored is None else f"{stand.stored:,}",
            f"{stand.end:,}",
            f"{stand.lag:,}",
            f"{num_poison:,} of {num_records:,}" if num_poison else "",
            stand.state,
        )
    return table


if __name__ == "__main__":
    run(Partitions, main)
