"""Records → each user's deliveries; poison → the dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mind_dist.config import KafkaConfig
from mind_dist.errors import PoisonEvent
from mind_dist.keys import NO_FEATURES, EventFeatures, IdType
from mind_dist.log.codec import PoisonGate, decode, is_kept
from mind_dist.log.source import DeadLetters
from mind_dist.records import Event, History, Record, Tombstone


@dataclass(frozen=True, slots=True)
class Delivery:
    """A record and what it says."""

    record: Record
    change: Event | Tombstone


class Taken(NamedTuple):
    """What a batch brought.

    Attributes:
        deliveries: Each user's records in order, with what they say.
        num_poison: Records that became dead letters.
        num_ignored: Events of types that the version does not take as behaviors.
    """

    deliveries: dict[int, list[Delivery]]
    num_poison: int
    num_ignored: int


class Intake:
    """Decodes batches, and judges each poison record once in its life, however often its batch is tried.

    Args:
        id_type: What ids are outside.
        event_types: Types of the events that are behaviors; empty where events of every type are.
        dead_letters: Where records go that cannot be decoded.
        config: How far ahead events may lie, and how much poison is too much.
        features: What is read of each event.
    """

    def __init__(
        self,
        id_type: IdType,
        event_types: Collection[str],
        dead_letters: DeadLetters,
        config: KafkaConfig,
        features: EventFeatures = NO_FEATURES,
    ) -> None:
        self._id_type = id_type
        self._features = features
        self._event_types = frozenset(event_types)
        self._dead_letters = dead_letters
        self._max_clock_skew_ms = config.max_clock_skew_ms
        self._gate = PoisonGate(config.max_poison_fraction, config.poison_window)
        self._judged: dict[int, int] = {}

    def take(self, records: Sequence[Record]) -> Taken:
        """Decode a batch and store its dead letters.

        Raises:
            PoisonLimitExceeded: So many records are poison that the producer must be broken.
            ServiceUnavailable: The dead letters could not be stored.
        """
        deliveries: dict[int, list[Delivery]] = {}
        poison: dict[Record, str] = {}
        num_ignored = 0
        for record in records:
            try:
                skew_ms = self._max_clock_skew_ms
                change = decode(record, self._id_type, max_clock_skew_ms=skew_ms, features=self._features)
            except PoisonEvent as error:
                poison[record] = str(error)
                continue
            if isinstance(change, History):
                continue  # states take histories
            if isinstance(change, Event) and not is_kept(change, self._event_types):
                num_ignored += 1
            else:
                deliveries.setdefault(change.user_key, []).append(Delivery(record, change))
        return Taken(deliveries, self._judge(records, poison), num_ignored)

    def _judge(self, records: Sequence[Record], poison: Mapping[Record, str]) -> int:
        unjudged = [record for record in records if record.offset >= self._judged.get(record.partition, 0)]
        letters = [record for record in unjudged if record in poison]
        for record in letters:
            self._dead_letters.send(record, poison[record])
        if letters:
            self._dead_letters.flush()
        for record in unjudged:
            self._judged[record.partition] = record.offset + 1
            self._gate.add(poison=record in poison)
        return len(letters)
