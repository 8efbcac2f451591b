"""The port to one transaction of a log: records, and the positions of the input that they were made of, or neither.

`InMemoryTransactions` is the twin in this process; `mind_dist.log.kafka_transactions` has Kafka behind it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mind_dist.errors import StaleAssignment
from mind_dist.log.memory_log import InMemoryLog
from mind_dist.records import Positions

Headers = tuple[tuple[str, bytes], ...]


class NewRecord(NamedTuple):
    """A record to write.

    Attributes:
        topic: Where.
        partition: Into which partition; None where its key decides.
        key: Its key.
        value: Its value; None is a tombstone.
        headers: What travels beside them.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Membership:
    """A consumer's place in its group as of a poll: the broker refuses what is written under one that is over.

    Attributes:
        group: The consumer group.
        generation: Which share-out of the partitions it belongs to; negative where there is none.
        token: What the implementation needs beside.
        counted_s: When the group is known to have counted this consumer among its members last, in seconds that never go back.
    """

    group: str
    generation: int
    token: Any = None
    counted_s: float = -math.inf


class Transactions(Protocol):
    """Writes records and stores positions, all or nothing."""

    def commit(
        self,
        records: Sequence[NewRecord],
        positions: Positions,
        membership: Membership,
        notes: Mapping[int, str],
    ) -> Sequence[int]:
        """Write records and a group's positions in one transaction, and return the records' offsets.

        After any error it is open whether the transaction took place: read the group's positions again.

        Args:
            records: What to write.
            positions: Partition of the input topic → where the group goes on.
            membership: The member that polled what the records were made of.
            notes: Partition → what is stored beside its position; none where it is absent.

        Raises:
            AnotherLog: The topic of states was made anew.
            StaleAssignment: The partitions have moved to another member since.
            ServiceUnavailable: The log did not answer within the implementation's bound.
        """
        ...

    def end_unfinished(self, partitions: Collection[int]) -> None:
        """End what others who wrote these partitions of the log of states have left under way there; they write no more.

        Whoever takes partitions over would wait for it otherwise, until the log ends it by itself. Where that cannot be
        done, so be it.
        """
        ...

    def close(self) -> None:
        """Leave the log; what is not committed is aborted."""
        ...


class InMemoryTransactions:
    """`Transactions` over logs in this process.

    Args:
        source: The input that positions are of.
        topics: Name → log of the topics written to.
        shows_late: Records show only after `InMemoryLog.show_all`, while positions show at once: what a broker may do for
            a moment.
    """

    def __init__(self, source: InMemoryLog, topics: Mapping[str, InMemoryLog], *, shows_late: bool = False) -> None:
        self._source = source
        self._topics = topics
        self._shows_late = shows_late
        self._lock = threading.Lock()

    def commit(
        self, records: Sequence[NewRecord], positions: Positions, membership: Membership, notes: Mapping[int, str]
    ) -> Sequence[int]:
        """Append all, leave a marker behind them as Kafka does, and store the positions."""
        with self._lock:
            if membership.generation != self._source.generation(membership.group):
                raise StaleAssignment(f"partitions {sorted(positions)} have moved on")
            offsets = [self._topics[each.topic].append(each.key, each.value, each.partition or 0) for each in records]
            for topic, partition in {(each.topic, each.partition or 0) for each in records}:
                self._topics[topic].skip(partition)
            if self._shows_late:
                for each, offset in zip(records, offsets, strict=True):
                    self._topics[each.topic].hide_from(each.partition or 0, offset)
            self._source.store(membership.group, positions, notes)
            return offsets

    def end_unfinished(self, partitions: Collection[int]) -> None:
        """Do nothing: nothing is ever left under way."""

    def close(self) -> None:
        """Do nothing: nothing is pending."""
