"""A log of events with all that real ones have, and what users' states must be after it, told by an obvious oracle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mind_dist.errors import PoisonEvent
from mind_dist.keys import EventFeatures
from mind_dist.log.codec import decode, encode_event, encode_history, encode_key
from mind_dist.records import BehaviorSequence, Event, History, Record, Tombstone
from mind_dist.states.local_store import LocalStore
from mind_dist.states.partition import EVENTS_LOG_KEY
from mind_dist.states.record import decode_state
from mind_dist.states.updater import StatesUpdater

FEATURES = EventFeatures(("event_type",))


class KeyValue(NamedTuple):
    """What a producer sends."""

    key: bytes | None
    value: bytes | None


def mixed_log(
    num_records: int, num_users: int, seed: int, first_ms: int = 1_000_000_000_000, *, poison_share: float = 0.03
) -> list[KeyValue]:
    """Return events with repeats and ties, histories with profiles, tombstones, poison, and late ones: one a second."""
    draw = np.random.default_rng(seed)
    sent: list[KeyValue] = []
    for place in range(num_records):
        user = int(draw.integers(num_users))
        time_ms = first_ms + place * 1000 + int(draw.integers(-60_000, 60_000)) // 5000 * 5000
        kind = draw.random()
        if kind < 0.02:
            sent.append(KeyValue(encode_key(user), None))
        elif kind < 0.02 + poison_share:
            poison = [b"{", b"[]", encode_event(user + 1, 3, time_ms), encode_event(user, 3, 1 << 60)]
            sent.append(KeyValue(encode_key(user), poison[int(draw.integers(4))]))
        elif kind < 0.08:
            num_known = 0 if draw.random() < 0.3 else 5  # a profile may be all that is known
            known = [
                [int(item), time_ms - 10_000 * back] for back, item in enumerate(draw.integers(50, size=num_known))
            ]
            profile = {"age": int(draw.integers(80))} if draw.random() < 0.5 else None
            sent.append(KeyValue(encode_key(user), encode_history(user, known[::-1], profile)))
        elif kind < 0.2 and sent:
            sent.append(sent[int(draw.integers(len(sent)))])
        else:
            event_type = ("click", "buy")[int(draw.integers(2))]
            sent.append(KeyValue(encode_key(user), encode_event(user, int(draw.integers(50)), time_ms, event_type)))
    return sent


class Oracle(NamedTuple):
    """What must be after a log.

    Attributes:
        states: User key → behaviors and raw profile.
        poison: Partition and offset of each record that cannot be read.
    """

    states: dict[int, tuple[BehaviorSequence, dict[str, object]]]
    poison: list[tuple[int, int]]


def nothing_yet(user_key: int) -> BehaviorSequence:
    return BehaviorSequence(user_key, behavior_keys=np.empty((0, len(FEATURES.behavior)), dtype=np.int64))


def told_by(records: Sequence[Record], max_history: int) -> Oracle:
    """Return the states that all records of a log give, applied one after the other from nothing."""
    states: dict[int, tuple[BehaviorSequence, dict[str, object]]] = {}
    poison = []
    for record in records:
        try:
            said = decode(record, "int64", max_clock_skew_ms=3_600_000, features=FEATURES)
        except PoisonEvent:
            poison.append((record.partition, record.offset))
            continue
        history, profile = states.get(said.user_key, (nothing_yet(said.user_key), {}))
        match said:
            case Tombstone():
                states.pop(said.user_key, None)
            case Event():
                states[said.user_key] = history.merge([said], max_history, by_kind=True), profile
            case History():
                told = profile if said.profile is None else dict(said.profile)
                history = history.merge(said.events, max_history, by_kind=True)
                if said.user_key in states or len(history) or told:  # else nothing is known of the user still
                    states[said.user_key] = history, told
    return Oracle(states, poison)


def in_order(sent: Iterable[KeyValue]) -> list[Record]:
    """Return what was sent as records in one order, whatever partitions they went to."""
    return [Record(0, place, key, value, time.time_ns() // 1_000_000) for place, (key, value) in enumerate(sent)]


def store_of(updater: StatesUpdater, partition: int) -> LocalStore:
    """Return the states of a partition that an updater owns."""
    store = updater.partitions[partition].store
    assert store is not None
    return store


def assert_states(records: Iterable[Record], wanted: Oracle) -> None:
    """Compare the newest states among the records of a log of states with an oracle."""
    newest = {int(record.key or b""): record.value for record in records if record.key != EVENTS_LOG_KEY}
    told = {key: decode_state(key, value, FEATURES.behavior) for key, value in newest.items() if value}
    assert told.keys() == wanted.states.keys()
    for key, (history, profile) in wanted.states.items():
        np.testing.assert_array_equal(told[key].history.item_keys, history.item_keys)
        np.testing.assert_array_equal(told[key].history.timestamps_ms, history.timestamps_ms)
        np.testing.assert_array_equal(told[key].history.behavior_keys, history.behavior_keys)
        assert told[key].profile == profile
