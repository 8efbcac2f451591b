"""What users' states, dead letters and rows are, beside what an oracle says that they must be: counted, not asserted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mind_dist.index.vector_store import UserRow
from mind_dist.records import BehaviorSequence, Record
from mind_dist.states.partition import EVENTS_LOG_KEY
from mind_dist.states.record import UserState, decode_state
from mind_dist.views.view import Encoder
from tests.state_worlds import FEATURES, Oracle
from tests.view_oracle import Rows, bits

Place = tuple[int, int]
"""Partition and offset of a record."""


@dataclass(frozen=True)
class Findings:
    """How far a system is from what the log says.

    Attributes:
        lost: Behaviors, profiles and dead letters that the log gives, and that are not there; users out of order, too.
        repeated: Behaviors and dead letters that are there more often than the log gives them; users that must be forgotten, too.
        mixed: Rows and answers that are not of one version alone.
        torn: Rows and answers whose interests are not those of the behaviors beside them.
        stale_rows: Rows that are not of their user's newest state, and did not become so.
    """

    lost: int = 0
    repeated: int = 0
    mixed: int = 0
    torn: int = 0
    stale_rows: int = 0

    def plus(self, other: Findings) -> Findings:
        """Return both together."""
        own, others = dataclasses.asdict(self), dataclasses.asdict(other)
        return Findings(**{name: own[name] + others[name] for name in own})


NOTHING = Findings()


def in_states(records: Iterable[Record], wanted: Oracle) -> Findings:
    """Compare the newest states among the records of a log of states with an oracle."""
    newest = {int(record.key or b""): record.value for record in records if record.key != EVENTS_LOG_KEY}
    told = {key: decode_state(key, value, FEATURES.behavior) for key, value in newest.items() if value}
    found = Findings()
    for key in wanted.states.keys() | told.keys():
        found = found.plus(_of_user(told.get(key), wanted.states.get(key)))
    return found


def _of_user(state: UserState | None, wanted: tuple[BehaviorSequence, dict[str, object]] | None) -> Findings:
    if state is None or wanted is None:
        count = len(_behaviors(wanted[0] if wanted else state.history if state else None))
        return Findings(lost=max(1, count)) if state is None else Findings(repeated=max(1, count))
    history, profile = wanted
    ours, theirs = _behaviors(state.history), _behaviors(history)
    lost, repeated = Counter(theirs) - Counter(ours), Counter(ours) - Counter(theirs)
    is_elsewise = (ours != theirs and not lost and not repeated) or state.profile != profile
    return Findings(lost=lost.total() + is_elsewise, repeated=repeated.total())


def _behaviors(history: BehaviorSequence | None) -> list[tuple[Any, ...]]:
    if history is None:
        return []
    kinds = history.behavior_keys.tolist()
    return [
        (*each, *kind)
        for *each, kind in zip(history.item_keys.tolist(), history.timestamps_ms.tolist(), kinds, strict=True)
    ]


def differing_users(records: Iterable[Record], wanted: Oracle) -> list[str]:
    """Return what is different of each user whose state is not what an oracle says, for people."""
    newest = {int(record.key or b""): record for record in records if record.key != EVENTS_LOG_KEY}
    told = {key: decode_state(key, each.value, FEATURES.behavior) for key, each in newest.items() if each.value}
    return [
        f"user {key}: {newest.get(key)} has {told.get(key)}, the log gives {wanted.states.get(key)}"
        for key in sorted(wanted.states.keys() | told.keys())
        if _of_user(told.get(key), wanted.states.get(key)) != NOTHING
    ]


def in_dead_letters(places: Iterable[Place], poison: Iterable[Place]) -> Findings:
    """Compare where dead letters are from with the places of all poison."""
    found, wanted = Counter(places), Counter(poison)
    return Findings(lost=(wanted - found).total(), repeated=(found - wanted).total())


def in_rows(rows: Sequence[UserRow], expected: Rows, encoder: Encoder) -> Findings:
    """Compare the rows of a version with what they must be."""
    version = encoder.manifest.model_version
    by_user = {row.user_key: row for row in rows}
    different = [row for row in rows if bits(row) != expected.get(row.user_key)]
    return Findings(
        mixed=sum(row.model_version != version for row in rows),
        torn=sum(is_torn(row, encoder) for row in different),
        stale_rows=len(different) + len(expected.keys() - by_user.keys()) + len(rows) - len(by_user),
    )


def is_torn(row: UserRow, encoder: Encoder) -> bool:
    """Tell whether a row's interests are not those of its own behaviors."""
    known = BehaviorSequence(row.user_key, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
    [interests] = encoder.encode([known])
    same = (interests.vectors.tobytes(), interests.weights.tobytes()) == (
        row.interests.tobytes(),
        row.weights.tobytes(),
    )
    return not same
