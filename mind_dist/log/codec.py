"""Bytes of the log ↔ events.

An event is JSON, `{"user_id":…, "item_id":…, "timestamp_ms":…, "event_type":"click", "context":{…}}`, under its user id as the
key (an int64 in decimal digits, a string as UTF-8); a null value under a key means: forget this user. The context is
optional: what is known of the moment, by name, as texts, integers or booleans; other values count as missing.
A history is JSON, too, `{"user_id":…, "history":[[item_id, timestamp_ms],…], "profile":{…}}`: what is known of a user already; the
profile is optional, and so are an event type and a context behind each time. One with `"forwarded_from":[partition,offset]`
tells again what stands there.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from mind_dist.errors import PoisonEvent, PoisonLimitExceeded
from mind_dist.keys import (
    DEFAULT_TYPE,
    NO_FEATURES,
    EventFeatures,
    IdType,
    Value,
    behavior_key,
    context_key,
    id_key,
    int64,
    shown,
    user_id_key,
    value_text,
)
from mind_dist.records import Event, History, Record, Tombstone

LONGEST_PROFILE_BYTES = 16_384
"""Largest profile of a history record, as JSON: it is written with each new state of the user, and one that no broker takes
would hold up its whole partition."""

_FORWARDED = "forwarded_from"
_LARGEST_MARKED = 1_000_000
"""Bytes of the largest record that is marked when it is forwarded: one at a broker's limit would not fit with the mark."""
_INTEGER = re.compile(rb"-?[0-9]{1,19}")


def encode_event(
    user_id: int | str,
    item_id: int | str,
    timestamp_ms: int,
    event_type: str = DEFAULT_TYPE,
    context: Mapping[str, Value] | None = None,
) -> bytes:
    """Return the value of a record that tells an event."""
    fields = {"user_id": user_id, "item_id": item_id, "timestamp_ms": timestamp_ms, "event_type": event_type}
    return orjson.dumps(fields | ({"context": context} if context else {}))


def encode_history(
    user_id: int | str, behaviors: Sequence[Sequence[Any]], profile: Mapping[str, Any] | None = None
) -> bytes:
    """Return the value of a record that tells what is known of a user already.

    Args:
        user_id: The user.
        behaviors: [item id, time in milliseconds] each, in the order in which they came; event type and context may follow.
        profile: Raw values by name; None for no word about them.
    """
    fields: dict[str, Any] = {"user_id": user_id, "history": behaviors}
    return orjson.dumps(fields | ({"profile": profile} if profile is not None else {}))


def forwarded(record: Record) -> bytes | None:
    """Return under which value a record that can be read goes on to its user's home: a history that says where it is from.

    As a history it is merged by the times of its behaviors, and is no example to train on a second time.
    """
    if record.value is None or len(record.value) > _LARGEST_MARKED:
        return record.value
    fields = orjson.loads(record.value)
    if "history" not in fields:
        behavior = [fields["item_id"], fields["timestamp_ms"], fields["event_type"], fields.get("context")]
        fields = {"user_id": fields["user_id"], "history": [behavior]}
    return orjson.dumps(fields | {_FORWARDED: [record.partition, record.offset]})


def item_ids(value: bytes) -> list[Any]:
    """Return the outside ids of the items that a record tells of, which `decode` has taken."""
    fields = orjson.loads(value)
    return [item_id for item_id, *_ in fields["history"]] if "history" in fields else [fields["item_id"]]


def encode_key(user_id: int | str) -> bytes:
    """Return the key of a user's records; it picks their partition."""
    return str(user_id).encode()


def decode(
    record: Record, id_type: IdType, *, max_clock_skew_ms: int, features: EventFeatures = NO_FEATURES
) -> Event | History | Tombstone:
    """Return what a record says; unknown fields are ignored.

    Args:
        record: The record.
        id_type: What ids are outside.
        max_clock_skew_ms: How far an event's time may lie ahead of the time at which the log took the record.
        features: What is read of it beside user, item, time and type.

    Raises:
        PoisonEvent: The key is not the user id, the value is no JSON object, a field is missing or mistyped, or the
            event lies in the future.
    """
    if record.key is None:
        raise PoisonEvent("key: missing")
    if record.value is None:
        return Tombstone(_user_of(record.key, id_type))
    try:
        fields = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise PoisonEvent(f"value: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise PoisonEvent(f"value: must be a JSON object, not {type(fields).__name__}")
    change = _history(fields, id_type, features) if "history" in fields else _event(fields, id_type, features)
    _check_key(record.key, fields["user_id"])
    events = change.events if isinstance(change, History) else (change,)
    try:
        for event in events:
            check_time(event.timestamp_ms, record.appended_ms, max_clock_skew_ms)
    except PoisonEvent as error:
        raise PoisonEvent(f"timestamp_ms: {error}") from error
    return change


def check_time(timestamp_ms: int, arrived_ms: int, max_clock_skew_ms: int) -> None:
    """Refuse an event of the future: it would stay the newest of its user, and later events would count as late.

    Raises:
        PoisonEvent: The event's time is more than `max_clock_skew_ms` ahead of its arrival.
    """
    if timestamp_ms > arrived_ms + max_clock_skew_ms:
        limit = f"more than max_clock_skew_s ({max_clock_skew_ms / 1000:g} s)"
        raise PoisonEvent(f"{timestamp_ms} is {limit} ahead of {arrived_ms}, its arrival, in ms since the epoch")


def _event(fields: Mapping[str, Any], id_type: IdType, features: EventFeatures) -> Event:
    name = "user_id"
    try:
        user_key = user_id_key(fields[name], id_type)
        item_key = id_key(fields[name := "item_id"], id_type)
        timestamp_ms = int64(fields[name := "timestamp_ms"])
        event_type = fields[name := "event_type"]
    except KeyError as error:
        raise PoisonEvent(f"{name}: missing") from error
    except PoisonEvent as error:
        raise PoisonEvent(f"{name}: {error}") from error
    return _behavior((user_key, item_key), timestamp_ms, event_type, fields.get("context"), features)


def _behavior(
    keys: tuple[int, int], timestamp_ms: int, event_type: object, context: object, features: EventFeatures
) -> Event:
    if timestamp_ms < 0:
        raise PoisonEvent("timestamp_ms: must not be negative")
    if not isinstance(event_type, str):
        raise PoisonEvent(f"event_type: must be a string, not {type(event_type).__name__}")
    if not isinstance(context, dict | None):
        raise PoisonEvent(f"context: must be an object, not {type(context).__name__}")
    if features == NO_FEATURES:
        return Event(*keys, timestamp_ms, event_type)
    values = {**(context or {}), "event_type": event_type}
    behavior = tuple(behavior_key(name, value_text(values.get(name))) for name in features.behavior)
    moment = tuple(context_key(name, value_text(values.get(name))) for name in features.context)
    return Event(*keys, timestamp_ms, event_type, behavior, moment)


def _history(fields: Mapping[str, Any], id_type: IdType, features: EventFeatures) -> History:
    try:
        user_key = user_id_key(fields["user_id"], id_type)
    except KeyError as error:
        raise PoisonEvent("user_id: missing") from error
    except PoisonEvent as error:
        raise PoisonEvent(f"user_id: {error}") from error
    behaviors, profile = fields["history"], fields.get("profile")
    if not isinstance(behaviors, list):
        raise PoisonEvent(f"history: must be a list, not {type(behaviors).__name__}")
    if not isinstance(profile, dict | None):
        raise PoisonEvent(f"profile: must be an object, not {type(profile).__name__}")
    if profile and (size := len(orjson.dumps(profile))) > LONGEST_PROFILE_BYTES:
        raise PoisonEvent(f"profile: must take at most {LONGEST_PROFILE_BYTES:,} bytes of JSON, not {size:,}")
    events = tuple(_of_history(user_key, *each, id_type, features) for each in enumerate(behaviors))
    return History(user_key, events, profile, is_forwarded=_FORWARDED in fields)


def _of_history(user_key: int, place: int, behavior: object, id_type: IdType, features: EventFeatures) -> Event:
    """Return one of a history's behaviors: [item id, time], and then, where they are known, type and context."""
    if not isinstance(behavior, list) or not 2 <= len(behavior) <= 4:  # noqa: PLR2004 - as the docstring says
        raise PoisonEvent(f"history.{place}: must be [item_id, timestamp_ms], event_type and context may follow")
    item_id, timestamp_ms, event_type, context = behavior + [DEFAULT_TYPE, None][len(behavior) - 2 :]
    try:
        keys = user_key, id_key(item_id, id_type)
        return _behavior(keys, int64(timestamp_ms), event_type, context, features)
    except PoisonEvent as error:
        raise PoisonEvent(f"history.{place}: {error}") from error


def _check_key(key: bytes, user_id: int | str) -> None:
    """Refuse a key that is not the user id: it picks another partition, so two workers would keep one user."""
    expected = encode_key(user_id)
    if key != expected:
        raise PoisonEvent(f"key: must be the user id, {shown(expected)}, not {shown(key)}")


def _user_of(key: bytes, id_type: IdType) -> int:
    """Return the user whom a tombstone's key names."""
    try:
        return user_id_key(key.decode() if id_type == "string" else _parse(key), id_type)
    except UnicodeDecodeError as error:
        raise PoisonEvent(f"key: must be the user id as UTF-8, not {shown(key)}") from error
    except PoisonEvent as error:
        raise PoisonEvent(f"key: {error}") from error


def _parse(digits: bytes) -> int:
    # int() alone would take " 7", "+7", "7_0" and "07", which stand in other partitions than "7"
    if not _INTEGER.fullmatch(digits) or encode_key(int(digits)) != digits:
        raise PoisonEvent(f"must be the user id, an integer in decimal digits, not {shown(digits)}")
    return int(digits)


def is_kept(event: Event, event_types: Collection[str]) -> bool:
    """Tell whether an event is a behavior: of one of these types; where none is named, every event is."""
    return not event_types or event.event_type in event_types


class PoisonGate:
    """Notices a broken producer: too many poison records among the last ones.

    One bad producer must not fill the dead-letter topic while user vectors silently stand still.

    Args:
        max_fraction: Largest share of poison that is let through.
        window: Among how many records; there is no judgement before so many were seen.
        counted: What `counted` gave: where to go on.
    """

    def __init__(self, max_fraction: float, window: int, counted: tuple[int, int] = (0, 0)) -> None:
        num_poison, num_records = counted
        self._max_fraction = max_fraction
        # the poison is put first, and so falls out of the window first
        self._last = deque([True] * num_poison + [False] * (num_records - num_poison), maxlen=window)
        self._num_poison = sum(self._last)

    @property
    def counted(self) -> tuple[int, int]:
        """How many of the last records were poison, and how many these are."""
        return self._num_poison, len(self._last)

    def copy(self) -> PoisonGate:
        """Return one that goes on from here by itself."""
        gate = PoisonGate(self._max_fraction, self._last.maxlen or 0)
        gate._last, gate._num_poison = self._last.copy(), self._num_poison
        return gate

    def add(self, *, poison: bool) -> None:
        """Count one record.

        Raises:
            PoisonLimitExceeded: The window is full, and more than `max_fraction` of it is poison.
        """
        window = self._last.maxlen or 0
        if len(self._last) == window:
            self._num_poison -= self._last[0]
        self._last.append(poison)
        self._num_poison += poison
        if len(self._last) == window and self._num_poison > self._max_fraction * window:
            raise PoisonLimitExceeded(self._num_poison, window, self._max_fraction)
