"""Records of one partition → each user's changes; what cannot be read becomes a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mind_dist.errors import PoisonEvent
from mind_dist.keys import EventFeatures, IdType
from mind_dist.log.codec import PoisonGate, decode
from mind_dist.records import Record
from mind_dist.states.applying import Change


@dataclass(slots=True)
class Taken:
    """What records of one partition say.

    Attributes:
        gate: The count of poison behind them; its note is stored beside the position, so that the next owner goes on counting.
        changes: User key → the user's records in order.
        letters: Records that cannot be read, each with the reason.
    """

    gate: PoisonGate
    changes: dict[int, list[Change]] = field(default_factory=dict)
    letters: list[tuple[Record, str]] = field(default_factory=list)


def take(
    records: Sequence[Record], gate: PoisonGate, id_type: IdType, features: EventFeatures, max_clock_skew_ms: int
) -> Taken:
    """Read records; nothing counts before they are stored, so `gate` stays as it is.

    Raises:
        PoisonLimitExceeded: So many are poison that the producer must be broken.
    """
    taken = Taken(gate.copy())
    for record in records:
        try:
            change = decode(record, id_type, max_clock_skew_ms=max_clock_skew_ms, features=features)
        except PoisonEvent as error:
            taken.letters.append((record, str(error)))
        else:
            taken.changes.setdefault(change.user_key, []).append(Change(record, change))
        taken.gate.add(poison=bool(taken.letters) and taken.letters[-1][0] is record)
    return taken
