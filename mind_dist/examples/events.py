"""Behavior events → training examples: an event log behind the port `ExampleSource`.

Each event is an example with its user's history before it. The histories are kept here, per partition, and are part
of a checkpoint; together with the positions they fix every example to come, however polls are cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mind_dist.errors import PoisonEvent
from mind_dist.examples.new_items import NewItems
from mind_dist.examples.partition_reader import PartitionReader
from mind_dist.examples.placement import Placement
from mind_dist.examples.source import Examples
from mind_dist.keys import NO_FEATURES, EventFeatures, IdType
from mind_dist.log.codec import PoisonGate, decode, is_kept
from mind_dist.log.partitioner import key_hash
from mind_dist.log.source import DeadLetters, EventSource
from mind_dist.records import (
    BehaviorSequence,
    Event,
    History,
    Keys,
    PartTrained,
    Positions,
    Record,
    Tombstone,
    UserHistory,
    no_keys,
)


class _Example(NamedTuple):
    """An event, and of a history what lies before it.

    Attributes:
        history: The history.
        start: The first of its behaviors that are shown.
        stop: Behind the last of them.
        event: What came then.
    """

    history: BehaviorSequence
    start: int
    stop: int
    event: Event


class EventExamples:
    """The events of an ordered log, each an example with one target.

    Events take their place in the history by time, and behind those of the same time. A duplicate is no example, nor is
    an event that is older than all that is kept of a full history, or has nothing before it. A poison record goes to the dead letters.
    A tombstone forgets the user. Of a history, none is an example.

    Args:
        open_source: Opens the source of one partition: each is polled only when its events are wanted.
        partitions: Partitions that this worker owns.
        id_type: What ids are in the log.
        dead_letters: Where poison records go.
        gate: Stops when too many are.
        max_behaviors: Longest history L.
        max_clock_skew_ms: An event further ahead of the time at which the log took it is poison.
        event_types: Types of the events that are behaviors; empty where events of every type are.
        features: What is read of each event.
        profiles: Profile keys by user; unknown users have none.
        num_profile_features: Profile features P.
        item_keys: Items whose outside ids are known, ascending; where ids are strings, those of others are taken note of.
        known_until_ms: Events up to this time are history alone: what is gone on with was trained on them.
        positions: Where to go on; a partition not named begins at its oldest record.
        histories: Histories as of these positions, by partition.
        follow: Go on with further events for ever, instead of ending where the log ends now.
        topic: The log's name, for errors.
        placement: Which records are to be applied now, where partitions are added to the log.
        stall_after_s: How long a partition that has not ended may deliver nothing.
        should_stop: Asked while waiting for such a partition; once it is true, `take` returns what it has.

    Attributes:
        num_ignored: Events of other types read so far; they are no examples and in no history.
        num_known: Events read so far that are history alone, since they are not after `known_until_ms`.
    """

    def __init__(
        self,
        open_source: Callable[[int], EventSource],
        partitions: Iterable[int],
        id_type: IdType,
        dead_letters: DeadLetters,
        gate: PoisonGate,
        *,
        max_behaviors: int,
        max_clock_skew_ms: int,
        event_types: Collection[str] = (),
        features: EventFeatures = NO_FEATURES,
        profiles: Mapping[int, Keys] | None = None,
        num_profile_features: int = 0,
        item_keys: Keys | None = None,
        known_until_ms: int = -1,
        positions: Positions | None = None,
        histories: Mapping[int, Iterable[UserHistory]] | None = None,
        follow: bool = False,
        topic: str = "events",
        placement: Placement | None = None,
        stall_after_s: float = 60.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._id_type = id_type
        self._dead_letters = dead_letters
        self._gate = gate
        self._max_behaviors = max_behaviors
        self._max_clock_skew_ms = max_clock_skew_ms
        self._event_types = frozenset(event_types)
        self._features = features
        self._known_until_ms = known_until_ms
        self.num_ignored = 0
        self.num_known = 0
        self._new_items = NewItems(no_keys() if item_keys is None else item_keys) if id_type == "string" else None
        self._profiles = profiles or {}
        self._no_profile = np.zeros(num_profile_features, dtype=np.int64)
        self._placement = placement or Placement(0, lambda: 0, {})
        self._readers = {
            partition: PartitionReader(
                open_source(partition),
                partition,
                (positions or {}).get(partition),
                follow=follow,
                topic=topic,
                stall_after_s=stall_after_s,
                should_stop=should_stop,
            )
            for partition in sorted(partitions)
        }
        self._users: dict[int, dict[int, UserHistory]] = defaultdict(dict)
        for partition, saved in (histories or {}).items():
            self._users[partition] = {history.sequence.user_key: history for history in saved}

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions owned, ascending."""
        return list(self._readers)

    @property
    def num_examples(self) -> None:
        """Return None: how many events will be examples shows when they are read."""
        return

    def take(self, partition: int, count: int) -> Examples:
        """Return the next `count` examples; fewer at the partition's end, or when a live log has nothing at hand.

        Raises:
            PositionLost: The log no longer keeps the position to go on from.
            PoisonLimitExceeded: Too many records cannot be decoded.
            PartitionStalled: The partition delivers nothing, though it has not ended.
            UnreadableBatch: A batch cannot be decompressed or decoded.
            ServiceUnavailable: The log cannot be reached.
        """
        taken: list[_Example] = []
        while len(taken) < count and (record := self._readers[partition].next()) is not None:
            example = self._apply(record)
            if example is not None:
                taken.append(example)
        return self._columns(taken)

    def positions(self) -> Positions:
        """Return the position after the last record of each partition that was taken."""
        return {partition: reader.position for partition, reader in self._readers.items()}

    def history(self, partition: int) -> Sequence[UserHistory]:
        """Return the histories of a partition's users, by user."""
        users = self._users[partition]
        return [users[user_key] for user_key in sorted(users)]

    def part_trained(self) -> Mapping[int, Sequence[PartTrained]]:
        """Return the parts before the positions, or behind them, of which some records are trained."""
        return self._placement.part_trained(self.positions())

    def new_item_ids(self) -> Mapping[int, str]:
        """Return outside ids of items that were met since the last call and that no catalog has, by key."""
        return self._new_items.told() if self._new_items else {}

    def finished(self) -> bool:
        """Tell whether every partition is read up to where the log ended at the start; never when following any."""
        return all(reader.ended for reader in self._readers.values())

    def flush(self) -> None:
        """Return when the dead letters are stored."""
        self._dead_letters.flush()

    def commit(self, positions: Positions) -> None:
        """Store positions for the sources' group."""
        for partition, reader in self._readers.items():
            reader.source.commit({partition: positions[partition]})

    def close(self) -> None:
        """Flush the dead letters and leave the log."""
        self._dead_letters.close()
        for reader in self._readers.values():
            reader.source.close()

    def _apply(self, record: Record) -> _Example | None:
        """Put a record into its user's history; return the event with the history before it if it is an example."""
        if self._placement.is_done(record):
            return None
        users = self._users[record.partition]
        try:
            skew_ms = self._max_clock_skew_ms
            decoded = decode(record, self._id_type, max_clock_skew_ms=skew_ms, features=self._features)
        except PoisonEvent as error:
            if not self._placement.is_for_later(record, known=False):
                self._dead_letters.send(record, str(error))
                self._gate.add(poison=True)
            return None
        if isinstance(decoded, History) and decoded.is_forwarded:
            return None  # what it tells was met, or will be, where it is from
        if self._placement.is_for_later(record, known=decoded.user_key in users):
            return None
        self._gate.add(poison=False)
        match decoded:
            case Tombstone():
                users.pop(decoded.user_key, None)
            case History():
                self._apply_history(record, decoded)
            case Event() if is_kept(decoded, self._event_types):
                return self._apply_event(record, decoded)
            case _:
                self.num_ignored += 1
        return None

    def _apply_history(self, record: Record, history: History) -> None:
        """Take what is known of a user already: it lies before what is to be learned, so none of it is an example."""
        users = self._users[record.partition]
        before, hash_of_key = users.get(history.user_key) or self._new_user(record, history.user_key)
        events = [event for event in history.events if is_kept(event, self._event_types)]
        self.num_ignored += len(history.events) - len(events)
        if events:
            self._take_note(record, events)
            users[history.user_key] = UserHistory(before.merge(events, self._max_behaviors), hash_of_key)

    def _apply_event(self, record: Record, event: Event) -> _Example | None:
        users = self._users[record.partition]
        before, hash_of_key = users.get(event.user_key) or self._new_user(record, event.user_key)
        after = before.followed_by(event, self._max_behaviors)
        if after is before:
            return None
        users[event.user_key] = UserHistory(after, hash_of_key)
        self._take_note(record, [event])
        if event.timestamp_ms <= self._known_until_ms:
            self.num_known += 1
            return None
        stop = int(np.searchsorted(before.timestamps_ms, event.timestamp_ms, side="right"))
        return _Example(before, max(0, stop - self._max_behaviors), stop, event) if stop else None

    def _take_note(self, record: Record, events: Sequence[Event]) -> None:
        if self._new_items:
            self._new_items.add(record.value or b"", [event.item_key for event in events])

    def _new_user(self, record: Record, user_key: int) -> UserHistory:
        profile_keys = self._profiles.get(user_key, self._no_profile)
        return UserHistory(BehaviorSequence(user_key, profile_keys=profile_keys), key_hash(record.key or b""))

    def _columns(self, taken: Sequence[_Example]) -> Examples:
        shape = (len(taken), self._max_behaviors)
        history, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        profile = np.zeros((len(taken), len(self._no_profile)), dtype=np.int64)
        for row, (before, start, stop, _) in enumerate(taken):
            history[row, : stop - start] = before.item_keys[start:stop]
            mask[row, : stop - start] = True
            profile[row] = before.profile_keys
        targets = np.array([example.event.item_key for example in taken], dtype=np.int64)[:, None]
        times = np.array([example.event.timestamp_ms for example in taken], dtype=np.int64)
        is_target = np.ones_like(targets, dtype=np.bool_)
        return Examples(history, mask, targets, is_target, profile, times, *self._event_keys(taken))

    def _event_keys(self, taken: Sequence[_Example]) -> tuple[Keys, Keys, Keys]:
        """Return features of the behaviors, and contexts: only that of the target counts, and is told."""
        names = self._features
        behavior = np.zeros((len(taken), self._max_behaviors, len(names.behavior)), dtype=np.int64)
        for row, (before, start, stop, _) in enumerate(taken):
            if before.behavior_keys.size:
                behavior[row, : stop - start] = before.behavior_keys[start:stop]
        moments = [example.event.context_keys for example in taken]
        shape = (len(taken), 1, len(names.context))
        of_target = np.array(moments, dtype=np.int64).reshape(shape)
        return behavior, of_target.repeat(self._max_behaviors, axis=1), of_target
