"""Records of one partition → each user's changes; what cannot be read becomes a dead letter, and what is not at home goes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mind_dist.errors import PoisonEvent
from mind_dist.keys import EventFeatures, IdType
from mind_dist.log.codec import PoisonGate, decode
from mind_dist.records import Record
from mind_dist.states.applying import Change
from mind_dist.states.homes import Homes


@dataclass(slots=True)
class Taken:
    """What records of one partition say.

    Attributes:
        gate: The count of poison behind them; its note is stored beside the position, so that the next owner goes on counting.
        changes: User key → the user's records in order.
        letters: Records that cannot be read, each with the reason.
        away: Records of users who are at home in other partitions, each with that.
    """

    gate: PoisonGate
    changes: dict[int, list[Change]] = field(default_factory=dict)
    letters: list[tuple[Record, str]] = field(default_factory=list)
    away: list[tuple[Record, int]] = field(default_factory=list)


def take(
    records: Sequence[Record],
    gate: PoisonGate,
    homes: Homes,
    *,
    id_type: IdType,
    features: EventFeatures,
    max_clock_skew_ms: int,
    forgiven_to: int = 0,
) -> Taken:
    """Read records; nothing counts before they are stored, so `gate` stays as it is.

    Raises:
        PoisonLimitExceeded: So many are poison that the producer must be broken.
        ServiceUnavailable: The broker did not tell in time whether the topic has grown.
    """
    taken = Taken(gate.copy())
    for record in records:
        try:
            change = decode(record, id_type, max_clock_skew_ms=max_clock_skew_ms, features=features)
            home = homes.of(record)
        except PoisonEvent as error:
            taken.letters.append((record, str(error)))
        else:
            if home == record.partition:
                taken.changes.setdefault(change.user_key, []).append(Change(record, change))
            else:
                taken.away.append((record, home))
        if record.offset >= forgiven_to:
            taken.gate.add(poison=bool(taken.letters) and taken.letters[-1][0] is record)
    return taken
