"""The nodes of the flow: what travels between its parts. No torch, no clients.

`Record` (bytes of a log) → `Event` | `Tombstone` → `BehaviorSequence` → … → `Candidate`.
Keys are int64 (`mind_dist.keys`); every time is in milliseconds since the epoch.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
"""A 1-D array of int64 keys or times."""

S = TypeVar("S", bound="BehaviorSequence")

Positions = Mapping[int, int]
"""Partition → the position after the last event taken from it; where to go on."""


MAX_TIES = 1000
"""Most behaviors that a history cut to its newest keeps beyond these, since they share a time with the oldest of them."""

FOREVER_MS = (1 << 63) - 1
"""A time that never comes."""


Chosen = NDArray[np.bool_] | slice
"""Which of some behaviors."""

KeyRows = NDArray[np.int64]
"""A 2-D array of int64 keys: one row a behavior, one column a feature."""


def no_keys() -> Keys:
    """Return an empty array of keys."""
    return np.empty(0, dtype=np.int64)


def no_rows() -> KeyRows:
    """Return rows of no features."""
    return np.empty((0, 0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Record:
    """One undecoded entry of an ordered log.

    Attributes:
        partition: Partition of the log.
        offset: Position in the partition; the next one to read is `offset + 1`.
        key: The user id's bytes, or None.
        value: The event's bytes; None is a tombstone.
        appended_ms: When the log took it, for freshness.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    appended_ms: int


@dataclass(frozen=True, slots=True)
class Event:
    """A user touched an item.

    Attributes:
        user_key: The user.
        item_key: The item.
        timestamp_ms: When.
        event_type: What the user did.
        behavior_keys: One key per feature of behaviors that is read, 0 where missing.
        context_keys: One key per feature of the context that is read.
    """

    user_key: int
    item_key: int
    timestamp_ms: int
    event_type: str = "click"
    behavior_keys: tuple[int, ...] = ()
    context_keys: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a user already: an import, or a changed profile. It is merged into what there is.

    Attributes:
        user_key: The user.
        events: Behaviors, in the order in which they came.
        profile: Raw values by the features' names, which replace those there; None for no word about it.
        is_forwarded: It tells again what stands in another partition of the same log.
    """

    user_key: int
    events: tuple[Event, ...] = ()
    profile: Mapping[str, Any] | None = None
    is_forwarded: bool = False


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Forget this user, everywhere."""

    user_key: int


@dataclass(frozen=True, slots=True)
class BehaviorSequence:
    """What one user did, oldest first.

    Attributes:
        user_key: The user.
        item_keys: Items in the order of (time, arrival): of equal times, the one that the log has first comes first.
        timestamps_ms: Their times, never decreasing.
        profile_keys: One feature key per profile feature, 0 where missing; empty without profiles.
        behavior_keys: One key per behavior and feature of behaviors, 0 where missing, [n, F]; no rows for no features.
        moment_keys: One key per behavior and feature of the context in which it happened, [n, C]; no rows where they
            are not read.
        context_keys: The context in which interests are asked for, [C]; empty for none.
    """

    user_key: int
    item_keys: Keys = field(default_factory=no_keys)
    timestamps_ms: Keys = field(default_factory=no_keys)
    profile_keys: Keys = field(default_factory=no_keys)
    behavior_keys: KeyRows = field(default_factory=no_rows)
    moment_keys: KeyRows = field(default_factory=no_rows)
    context_keys: Keys = field(default_factory=no_keys)

    def __len__(self) -> int:
        return len(self.item_keys)

    def slice(self, start: int, stop: int) -> Self:
        """Return the behaviors from `start` up to, not including, `stop`."""
        return self.take(slice(start, stop))

    def take(self, chosen: Chosen) -> Self:
        """Return some of the behaviors."""
        return dataclasses.replace(
            self,
            item_keys=self.item_keys[chosen],
            timestamps_ms=self.timestamps_ms[chosen],
            behavior_keys=_chosen(self.behavior_keys, chosen),
            moment_keys=_chosen(self.moment_keys, chosen),
        )

    def last(self, count: int) -> Self:
        """Return the newest `count` behaviors."""
        return self.slice(max(0, len(self) - count), len(self))

    def newest(self, count: int) -> Self:
        """Return the newest `count` behaviors, and with them those of the same time as the oldest of these.

        A cut between equal times would forget what was there at a time that others are kept of, and the repeat of a
        forgotten event would come back as a new one. Of such ties at most `MAX_TIES` are kept beyond `count`.
        """
        first = max(0, len(self) - count)
        if 0 < first < len(self):
            tied = int(np.searchsorted(self.timestamps_ms, self.timestamps_ms[first]))
            first = max(tied, first - MAX_TIES)
        return self.slice(first, len(self)) if first else self

    def merge(self, events: Iterable[Event], max_behaviors: int, *, by_kind: bool = False) -> Self:
        """Return the sequence with `events`, in the order of their arrival, each behind all that are not later.

        So behaviors are in the order of (time, arrival). An event with the item and time of a behavior already there
        is a duplicate and changes nothing, nor does one that is older than all of a full history, which is kept as
        `newest` says. It does not matter how events are cut into calls, or whether some come again. Returns `self`
        itself when nothing changed.

        Args:
            events: What to add.
            max_behaviors: How many behaviors are kept.
            by_kind: What differs in the first behavior key, the type of the event, is no duplicate: who reads some types
                alone must find the first of these.
        """
        merging = _Merging(self, max_behaviors, by_kind=by_kind)
        for event in events:
            merging.add(event)
        return merging.merged(self) if merging.is_changed else self

    def followed_by(self, event: Event, max_behaviors: int) -> Self:
        """Return what `merge` returns of one event, in a third of the time where it is later than all that is there."""
        count = len(self)
        first = max(0, count + 1 - max_behaviors)
        is_newest = not count or event.timestamp_ms > self.timestamps_ms[-1]
        cuts_a_tie = 0 < first < count and self.timestamps_ms[first - 1] == self.timestamps_ms[first]
        if not is_newest or cuts_a_tie or event.behavior_keys or self.behavior_keys.size or not max_behaviors:
            return self.merge([event], max_behaviors)
        items, times = np.empty((2, count + 1 - first), dtype=np.int64)
        items[:-1], items[-1] = self.item_keys[first:], event.item_key
        times[:-1], times[-1] = self.timestamps_ms[first:], event.timestamp_ms
        rest = (self.profile_keys, self.behavior_keys, self.moment_keys, self.context_keys)
        return type(self)(self.user_key, items, times, *rest)

    def without_repeats(self) -> Self:
        """Return the sequence with an item once at each time, where it came first."""
        times = self.timestamps_ms
        if not bool((times[1:] == times[:-1]).any()):
            return self
        _, first = np.unique(np.stack([times, self.item_keys]), axis=1, return_index=True)
        return self if len(first) == len(self) else self.take(np.isin(np.arange(len(self)), first))

    def events(self) -> Iterator[Event]:
        """Yield the behaviors as events that `merge` takes."""
        rows = self.behavior_keys.tolist() or [()] * len(self)
        for item, time, row in zip(self.item_keys.tolist(), self.timestamps_ms.tolist(), rows, strict=True):
            yield Event(self.user_key, item, time, behavior_keys=tuple(row))


def _chosen(rows: KeyRows, chosen: Chosen) -> KeyRows:
    return rows[chosen] if rows.shape[1] else rows


class _Merging:
    """A history that events are put into: as lists, since an array would be made anew by each of them."""

    def __init__(self, sequence: BehaviorSequence, max_behaviors: int, *, by_kind: bool) -> None:
        self._max_behaviors = max_behaviors
        self._by_kind = by_kind
        self._items: list[int] = sequence.item_keys.tolist()
        self._times: list[int] = sequence.timestamps_ms.tolist()
        self._kinds: list[list[int]] = sequence.behavior_keys.T.tolist()  # a column each
        self.is_changed = False

    def add(self, event: Event) -> None:
        """Put in an event, unless it is there already or too late."""
        times = self._times
        first, behind = bisect_left(times, event.timestamp_ms), bisect_right(times, event.timestamp_ms)
        if behind == 0 and len(times) >= self._max_behaviors:
            return
        if any(self._is_same(place, event) for place in range(first, behind)):
            return
        if event.behavior_keys:
            if len(self._kinds) != len(event.behavior_keys) or len(self._kinds[0]) != len(times):
                self._kinds = [[0] * len(times) for _ in event.behavior_keys]  # the history had no such features
            for column, key in zip(self._kinds, event.behavior_keys, strict=True):
                column.insert(behind, key)
        times.insert(behind, event.timestamp_ms)
        self._items.insert(behind, event.item_key)
        self.is_changed = True
        self._cut()

    def _is_same(self, place: int, event: Event) -> bool:
        if self._items[place] != event.item_key:
            return False
        return not (self._by_kind and event.behavior_keys) or self._kinds[0][place] == event.behavior_keys[0]

    def _cut(self) -> None:
        """Keep what `BehaviorSequence.newest` would."""
        first = len(self._times) - self._max_behaviors
        if first > 0:
            first = max(bisect_left(self._times, self._times[first]), first - MAX_TIES)
            self._items, self._times = self._items[first:], self._times[first:]
            self._kinds = [column[first:] for column in self._kinds]

    def merged(self, sequence: S) -> S:
        """Return the sequence with what was put in."""
        kinds = np.array(self._kinds, dtype=np.int64).T if self._kinds else sequence.behavior_keys
        return dataclasses.replace(
            sequence,
            item_keys=np.array(self._items, dtype=np.int64),
            timestamps_ms=np.array(self._times, dtype=np.int64),
            behavior_keys=kinds,
        )


@dataclass(frozen=True, slots=True)
class PartTrained:
    """A part of a partition of which some records are trained, and the others not yet.

    Attributes:
        count: Those that Kafka's partitioner puts here among so many partitions are trained.
        first: Position of the part's first record.
        end: Position behind its last.
        until_ms: Records appended from this time on are not among the trained ones: the topic had grown once more.
    """

    count: int
    first: int
    end: int
    until_ms: int = FOREVER_MS


class UserHistory(NamedTuple):
    """What training from a log keeps of a user.

    Attributes:
        sequence: The user's behaviors.
        key_hash: Hash of the key of the user's records; the number of partitions and it give the partition.
    """

    sequence: BehaviorSequence
    key_hash: int


class Candidate(NamedTuple):
    """An item proposed to a ranker: a tuple, since a request makes hundreds.

    Attributes:
        item_key: The item.
        score: Inner product with the interest that gave it: the user's best, where interests are merged by score.
        interest: Index of that interest.
    """

    item_key: int
    score: float
    interest: int
