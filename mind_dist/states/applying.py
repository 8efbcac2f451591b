"""A user's state × what the log says next of the user → the next state; pure.

It is the same however the log is cut into batches, and whether some of it comes again: records below the state's
`next_offset` are in it already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mind_dist.log.codec import is_kept
from mind_dist.records import BehaviorSequence, Event, History, Record, Tombstone
from mind_dist.states.record import UserState


class Change(NamedTuple):
    """A record and what it says of a user."""

    record: Record
    change: Event | History | Tombstone


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of behaviors.

    Attributes:
        max_history: The newest so many, and ties of the oldest (`BehaviorSequence.newest`).
        event_types: Of these types; empty for all.
    """

    max_history: int
    event_types: frozenset[str] = frozenset()


@dataclass(slots=True)
class Applied:
    """What some records did to one user.

    Attributes:
        state: The state behind them; None where nothing is known of the user.
        changed: It is another one than before.
        num_applied: Records that changed it.
        appended_ms: When the log took those of them that are events, for freshness: an import is as old as it is.
        num_skipped: Records that were in it already.
        num_ignored: Events of types that are not kept.
        num_unchanged: Records that changed nothing: duplicates, or older than a full history.
        num_tombstones: Times the user was forgotten.
    """

    state: UserState | None
    changed: bool = False
    num_applied: int = 0
    appended_ms: list[int] = field(default_factory=list)
    num_skipped: int = 0
    num_ignored: int = 0
    num_unchanged: int = 0
    num_tombstones: int = 0


def apply(
    user_key: int, state: UserState | None, changes: Iterable[Change], keeping: Keeping, log_key: int = 0
) -> Applied:
    """Apply a user's records in order; `log_key` names the log that they are of."""
    result = Applied(state)
    for record, change in changes:
        known = result.state
        if known is not None and known.log_key == log_key and record.offset < known.next_offset:
            result.num_skipped += 1
        elif isinstance(change, Tombstone):
            result.state, result.changed = None, result.changed or known is not None
            result.num_tombstones += 1
        else:
            before = known or UserState(BehaviorSequence(user_key))
            _take(result, dataclasses.replace(before, log_key=log_key), record, change, keeping)
    return result


def _take(result: Applied, before: UserState, record: Record, change: Event | History, keeping: Keeping) -> None:
    events: Collection[Event] = change.events if isinstance(change, History) else (change,)
    kept = [event for event in events if is_kept(event, keeping.event_types)]
    result.num_ignored += len(events) - len(kept)
    history = before.history.merge(kept, keeping.max_history, by_kind=True)
    profile = before.profile if isinstance(change, Event) or change.profile is None else change.profile
    if history is before.history and profile == before.profile:
        result.num_unchanged += bool(kept) or not events
        return
    result.state = dataclasses.replace(before, history=history, profile=profile, next_offset=record.offset + 1)
    result.changed = True
    result.num_applied += 1
    if isinstance(change, Event):
        result.appended_ms.append(record.appended_ms)
