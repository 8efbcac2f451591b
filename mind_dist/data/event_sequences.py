"""Behavior events → training examples: an event log behind the port `ExampleSource`.

Each event is an example with its user's history before it. The histories are kept here, per partition, and are part
of a checkpoint; together with the positions they fix every example to come, however polls are cut.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mind_dist.data.codec import IdType, PoisonGate, decode, is_kept
from mind_dist.data.sequences import Examples
from mind_dist.data.source import DeadLetters, EventSource
from mind_dist.errors import PoisonEvent
from mind_dist.records import BehaviorSequence, Event, Keys, Positions, Record, Tombstone

_MOST_BUFFERED = 4096
"""Records of a partition kept before it is paused, since another one is read."""

_POLL_S = 0.2
"""How long one poll waits."""


class _Example(NamedTuple):
    before: BehaviorSequence
    event: Event


class EventExamples:
    """The events of an ordered log, each an example with one target.

    Events take their place in the history by time. A duplicate is no example, nor is an event that is older than
    all that is kept of a full history, or has nothing before it. A poison record goes to the dead letters.
    A tombstone forgets the user.

    Args:
        source: The log, with the partitions that this worker owns assigned to it.
        id_type: What ids are in the log.
        dead_letters: Where poison records go.
        gate: Stops when too many are.
        max_behaviors: Longest history L.
        max_clock_skew_ms: An event further ahead of the time at which the log took it is poison.
        event_types: Types of the events that are behaviors; empty where events of every type are.
        profiles: Profile keys by user; unknown users have none.
        num_profile_features: Profile features P.
        positions: Where to go on; a partition not named begins at its oldest record.
        histories: Histories as of these positions, by partition.
        follow: Wait for further events for ever, instead of ending where the log ends now.

    Attributes:
        num_ignored: Events of other types read so far; they are no examples and in no history.
    """

    def __init__(
        self,
        source: EventSource,
        id_type: IdType,
        dead_letters: DeadLetters,
        gate: PoisonGate,
        *,
        max_behaviors: int,
        max_clock_skew_ms: int,
        event_types: Collection[str] = (),
        profiles: Mapping[int, Keys] | None = None,
        num_profile_features: int = 0,
        positions: Positions | None = None,
        histories: Mapping[int, Iterable[BehaviorSequence]] | None = None,
        follow: bool = False,
    ) -> None:
        self._source = source
        self._id_type = id_type
        self._dead_letters = dead_letters
        self._gate = gate
        self._max_behaviors = max_behaviors
        self._max_clock_skew_ms = max_clock_skew_ms
        self._event_types = frozenset(event_types)
        self.num_ignored = 0
        self._profiles = profiles or {}
        self._no_profile = np.zeros(num_profile_features, dtype=np.int64)
        self._positions = {p: (positions or {}).get(p, oldest) for p, oldest in source.oldest_positions().items()}
        source.seek(self._positions)
        self._ends = None if follow else dict(source.end_positions())
        self._buffers: dict[int, deque[Record]] = {p: deque() for p in self._positions}
        self._users: dict[int, dict[int, BehaviorSequence]] = defaultdict(dict)
        for partition, sequences in (histories or {}).items():
            self._users[partition] = {sequence.user_key: sequence for sequence in sequences}

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions owned, ascending."""
        return sorted(self._positions)

    @property
    def num_examples(self) -> None:
        """Return None: how many events will be examples shows when they are read."""
        return

    def take(self, partition: int, count: int) -> Examples:
        """Return the next `count` examples; fewer at the partition's end, or when a live log was silent.

        Raises:
            PositionLost: The log no longer keeps the position to go on from.
            PoisonLimitExceeded: Too many records cannot be decoded.
            ServiceUnavailable: The log cannot be reached.
        """
        taken: list[_Example] = []
        while len(taken) < count and self._fill(partition):
            record = self._buffers[partition].popleft()
            self._positions[partition] = record.offset + 1
            example = self._apply(record)
            if example is not None:
                taken.append(example)
        return self._columns(taken)

    def positions(self) -> Positions:
        """Return the position after the last record of each partition that was taken."""
        return dict(self._positions)

    def history(self, partition: int) -> Sequence[BehaviorSequence]:
        """Return the histories of a partition's users, by user."""
        users = self._users[partition]
        return [users[user_key] for user_key in sorted(users)]

    def finished(self) -> bool:
        """Tell whether every partition is read up to where the log ended at the start; never when following any."""
        return all(self._ended(partition) for partition in self._positions)

    def flush(self) -> None:
        """Return when the dead letters are stored."""
        self._dead_letters.flush()

    def commit(self, positions: Positions) -> None:
        """Store positions for the source's group."""
        self._source.commit(positions)

    def close(self) -> None:
        """Flush the dead letters and leave the log."""
        self._dead_letters.close()
        self._source.close()

    def _fill(self, partition: int) -> bool:
        """Return whether a record of the partition is at hand, after polling for one where it has not ended."""
        buffer = self._buffers[partition]
        while not buffer and not self._ended(partition):
            self._source.resume([partition])
            records = self._source.poll(_POLL_S)
            for record in records:
                self._buffers[record.partition].append(record)
            self._source.pause([p for p, held in self._buffers.items() if len(held) >= _MOST_BUFFERED])
            if not records:
                self._pass_over(partition)
                if self._ends is None:
                    break
        return bool(buffer) and not self._ended(partition)

    def _pass_over(self, partition: int) -> None:
        """Go on behind offsets that hold no record: marks of transactions, or what compaction took away."""
        if not self._buffers[partition]:
            self._positions[partition] = max(self._positions[partition], self._source.position()[partition])

    def _ended(self, partition: int) -> bool:
        return self._ends is not None and self._positions[partition] >= self._ends[partition]

    def _apply(self, record: Record) -> _Example | None:
        """Put a record into its user's history; return the event with the history before it if it is an example."""
        users = self._users[record.partition]
        try:
            decoded = decode(record, self._id_type, max_clock_skew_ms=self._max_clock_skew_ms)
        except PoisonEvent as error:
            self._dead_letters.send(record, str(error))
            self._gate.add(poison=True)
            return None
        self._gate.add(poison=False)
        if isinstance(decoded, Tombstone):
            users.pop(decoded.user_key, None)
            return None
        if not is_kept(decoded, self._event_types):
            self.num_ignored += 1
            return None
        return self._apply_event(users, decoded)

    def _apply_event(self, users: dict[int, BehaviorSequence], event: Event) -> _Example | None:
        before = users.get(event.user_key) or self._new_user(event.user_key)
        after = before.merge([event], self._max_behaviors)
        if after is before:
            return None
        users[event.user_key] = after
        num_before = int(np.searchsorted(before.timestamps_ms, event.timestamp_ms, side="right"))
        return _Example(before.slice(0, num_before).last(self._max_behaviors), event) if num_before else None

    def _new_user(self, user_key: int) -> BehaviorSequence:
        return BehaviorSequence(user_key, profile_keys=self._profiles.get(user_key, self._no_profile))

    def _columns(self, taken: Sequence[_Example]) -> Examples:
        shape = (len(taken), self._max_behaviors)
        history, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        profile = np.zeros((len(taken), len(self._no_profile)), dtype=np.int64)
        for row, (before, _) in enumerate(taken):
            history[row, : len(before)] = before.item_keys
            mask[row, : len(before)] = True
            profile[row] = before.profile_keys
        targets = np.array([event.item_key for _, event in taken], dtype=np.int64)[:, None]
        times = np.array([event.timestamp_ms for _, event in taken], dtype=np.int64)
        return Examples(history, mask, targets, np.ones_like(targets, dtype=np.bool_), profile, times)
