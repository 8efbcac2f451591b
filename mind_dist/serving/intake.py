"""Records → each user's deliveries; poison → the dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mind_dist.config import KafkaConfig
from mind_dist.data.codec import IdType, PoisonGate, decode
from mind_dist.data.source import DeadLetters
from mind_dist.errors import PoisonEvent
from mind_dist.limits import FIRST_KEY
from mind_dist.records import Event, Record, Tombstone


@dataclass(frozen=True, slots=True)
class Delivery:
    """A record and what it says."""

    record: Record
    change: Event | Tombstone


class Intake:
    """Decodes batches, and judges each poison record once in its life, however often its batch is tried.

    Args:
        id_type: What ids are outside.
        dead_letters: Where records go that cannot be decoded.
        config: How much poison is too much.
    """

    def __init__(self, id_type: IdType, dead_letters: DeadLetters, config: KafkaConfig) -> None:
        self._id_type = id_type
        self._dead_letters = dead_letters
        self._gate = PoisonGate(config.max_poison_fraction, config.poison_window)
        self._judged: dict[int, int] = {}

    def take(self, records: Sequence[Record]) -> tuple[dict[int, list[Delivery]], int]:
        """Return each user's deliveries in order, and the number of records that became dead letters.

        Raises:
            PoisonLimitExceeded: So many records are poison that the producer must be broken.
            ServiceUnavailable: The dead letters could not be stored.
        """
        deliveries: dict[int, list[Delivery]] = {}
        poison: dict[Record, str] = {}
        for record in records:
            try:
                change = self._decode(record)
            except PoisonEvent as error:
                poison[record] = str(error)
            else:
                deliveries.setdefault(change.user_key, []).append(Delivery(record, change))
        return deliveries, self._judge(records, poison)

    def _decode(self, record: Record) -> Event | Tombstone:
        change = decode(record, self._id_type)
        if change.user_key < FIRST_KEY:  # the store refuses it, and one such record must not stop all others
            raise PoisonEvent(f"user_id: must be at least {FIRST_KEY}")
        return change

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
