"""Outside ids and bytes ↔ inside keys and events: the one boundary where ids change form.

An int64 id is its own key; a string id is its xxh3-64 fingerprint. Nothing further inside asks which it was.
An event is JSON, `{"user_id":…, "item_id":…, "timestamp_ms":…, "event_type":"click", "context":{…}}`, under its user id as the
key (an int64 in decimal digits, a string as UTF-8); a null value under a key means: forget this user. The context is
optional: what is known of the moment, by name, as texts, integers or booleans; other values count as missing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from mind_dist.config import ModelConfig
from mind_dist.errors import PoisonEvent, PoisonLimitExceeded
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.records import Event, Keys, Record, Tombstone

DEFAULT_TYPE = "click"
"""Event type where none is known."""

IdType = Literal["int64", "string"]
"""What user and item ids are outside; one choice per deployment."""

_INT64_MAX = (1 << 63) - 1
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_MOST_SHOWN = 80
"""Bytes of a wrong key that an error shows."""


def fingerprint(text: str) -> int:
    """Return the xxh3-64 fingerprint of a text as a signed 64-bit integer."""
    unsigned = xxhash.xxh3_64_intdigest(text.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def feature_key(feature: str, value: object) -> int:
    """Return the key of one value of one item or user feature; features never share keys."""
    return fingerprint(f"{feature}\x1f{value}")


Value = str | int | bool
"""A value of an event's or a request's context."""


@dataclass(frozen=True)
class EventFeatures:
    """The fields of an event that a model reads beside user, item and time: `event_type`, and names of the context.

    Attributes:
        behavior: What kind of behavior it is.
        context: In what moment it happened.
    """

    behavior: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ModelConfig) -> EventFeatures:
        """Return what a model reads."""
        return cls(model.behavior_features, model.context_features)


NO_FEATURES = EventFeatures()


def behavior_key(name: str, value: str | None) -> int:
    """Return the key of a value of a behavior's feature, 0 where it is missing."""
    return feature_key(f"behavior.{name}", value) if value else 0


def context_key(name: str, value: str | None) -> int:
    """Return the key of a value of the context; a missing one has a key, too, since its vector is learned."""
    return feature_key(f"context.{name}", value or "")


def no_context(names: Sequence[str]) -> Keys:
    """Return the keys of a context of which nothing is known, [C]."""
    return np.array([context_key(name, None) for name in names], dtype=np.int64)


def value_text(value: object) -> str | None:
    """Return a value of a context as the text that a log has for it; None for what is no text, integer or boolean.

    A real number that is whole counts as an integer.

    >>> value_text("mobile"), value_text(7), value_text(7.0), value_text(True), value_text(1.5), value_text("")
    ('mobile', '7', '7', 'true', None, None)
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < _INT64_MAX):
        return str(int(value))
    return value if isinstance(value, str) and value and is_unicode(value) else None


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8; JSON can hold one that cannot, as the escape of half a character."""
    try:
        check_text(text)
    except PoisonEvent:
        return False
    return True


def mix(keys: Keys) -> NDArray[np.uint64]:
    """Scatter keys evenly over 64 bits (the splitmix64 finaliser); the same on every machine and run."""
    with np.errstate(over="ignore"):
        bits = keys.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def partition_of(keys: Keys, num_partitions: int) -> Keys:
    """Return the bucket or shard of each key: its scattered bits modulo the number of partitions."""
    return (mix(keys) % np.uint64(num_partitions)).astype(np.int64)


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


def encode_key(user_id: int | str) -> bytes:
    """Return the key of a user's records; it picks their partition."""
    return str(user_id).encode()


def id_key(value: object, id_type: IdType) -> int:
    """Return the key of an outside id.

    >>> id_key(7, "int64")
    7

    Raises:
        PoisonEvent: The id is not of the deployment's type, outside `FIRST_KEY` … `LAST_KEY`, empty, or no valid text.
    """
    if id_type == "int64":
        key = _int64(value)
        if not FIRST_KEY <= key <= LAST_KEY:
            raise PoisonEvent(f"must be between {FIRST_KEY} and {LAST_KEY}")
        return key
    if not isinstance(value, str):
        raise PoisonEvent(f"must be a string, not {type(value).__name__}")
    if not value:
        raise PoisonEvent("must not be empty")
    check_text(value)
    return fingerprint(value)


def check_text(text: str) -> None:
    """Refuse a text that cannot be written as UTF-8; JSON can hold one, as the escape of half a character.

    Raises:
        PoisonEvent: The text has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PoisonEvent(f"must be valid Unicode text: {error.reason} at {error.start}") from error


def user_id_key(value: object, id_type: IdType) -> int:
    """Return the key of an outside user id, which must also be usable as a record's key.

    Raises:
        PoisonEvent: As `id_key`; or the id is a text in JSON quotes. A producer that encodes its keys as JSON writes
            those, and a tombstone under one would forget nobody, so no user may be named so.
    """
    key = id_key(value, id_type)
    if isinstance(value, str) and is_json_string(value):
        raise PoisonEvent(f"must not be a JSON string in quotes: {_shown(value.encode())}")
    return key


def decode(
    record: Record, id_type: IdType, *, max_clock_skew_ms: int, features: EventFeatures = NO_FEATURES
) -> Event | Tombstone:
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
    event = _event(fields, id_type, features)
    _check_key(record.key, fields["user_id"])
    try:
        check_time(event.timestamp_ms, record.appended_ms, max_clock_skew_ms)
    except PoisonEvent as error:
        raise PoisonEvent(f"timestamp_ms: {error}") from error
    return event


def check_time(timestamp_ms: int, arrived_ms: int, max_clock_skew_ms: int) -> None:
    """Refuse an event of the future: it would stay the newest of its user, and later events would count as late.

    Raises:
        PoisonEvent: The event's time is more than `max_clock_skew_ms` ahead of its arrival.
    """
    if timestamp_ms > arrived_ms + max_clock_skew_ms:
        limit = f"more than max_clock_skew_s ({max_clock_skew_ms / 1000:g} s)"
        raise PoisonEvent(f"{timestamp_ms} is {limit} ahead of {arrived_ms}, its arrival, in ms since the epoch")


def _event(fields: dict[str, Any], id_type: IdType, features: EventFeatures) -> Event:
    name = "user_id"
    try:
        user_key = user_id_key(fields[name], id_type)
        item_key = id_key(fields[name := "item_id"], id_type)
        timestamp_ms = _int64(fields[name := "timestamp_ms"])
        event_type = fields[name := "event_type"]
    except KeyError as error:
        raise PoisonEvent(f"{name}: missing") from error
    except PoisonEvent as error:
        raise PoisonEvent(f"{name}: {error}") from error
    if timestamp_ms < 0:
        raise PoisonEvent("timestamp_ms: must not be negative")
    if not isinstance(event_type, str):
        raise PoisonEvent(f"event_type: must be a string, not {type(event_type).__name__}")
    context = fields.get("context")
    if not isinstance(context, dict | None):
        raise PoisonEvent(f"context: must be an object, not {type(context).__name__}")
    if features == NO_FEATURES:
        return Event(user_key, item_key, timestamp_ms, event_type)
    values = {**(context or {}), "event_type": event_type}
    behavior = tuple(behavior_key(name, value_text(values.get(name))) for name in features.behavior)
    moment = tuple(context_key(name, value_text(values.get(name))) for name in features.context)
    return Event(user_key, item_key, timestamp_ms, event_type, behavior, moment)


def _check_key(key: bytes, user_id: int | str) -> None:
    """Refuse a key that is not the user id: it picks another partition, so two workers would keep one user."""
    expected = encode_key(user_id)
    if key != expected:
        raise PoisonEvent(f"key: must be the user id, {_shown(expected)}, not {_shown(key)}")


def _user_of(key: bytes, id_type: IdType) -> int:
    """Return the user whom a tombstone's key names."""
    try:
        return user_id_key(key.decode() if id_type == "string" else _parse(key), id_type)
    except UnicodeDecodeError as error:
        raise PoisonEvent(f"key: must be the user id as UTF-8, not {_shown(key)}") from error
    except PoisonEvent as error:
        raise PoisonEvent(f"key: {error}") from error


def _parse(digits: bytes) -> int:
    # int() alone would take " 7", "+7", "7_0" and "07", which stand in other partitions than "7"
    if not _INTEGER.fullmatch(digits) or encode_key(int(digits)) != digits:
        raise PoisonEvent(f"must be the user id, an integer in decimal digits, not {_shown(digits)}")
    return int(digits)


def is_json_string(text: str) -> bool:
    """Tell whether a text is a JSON string in its quotes, which no user may be named."""
    if not (text.startswith('"') and text.endswith('"')):
        return False
    try:
        return isinstance(orjson.loads(text), str)
    except orjson.JSONDecodeError:
        return False


def _shown(key: bytes) -> str:
    """Return a key for an error's text, cut where it is long."""
    text = repr(key[:_MOST_SHOWN].decode(errors="backslashreplace"))
    return text if len(key) <= _MOST_SHOWN else f"{text} … ({len(key)} bytes)"


def _int64(value: object) -> int:
    if type(value) is not int:  # True and 1.0 are not ids
        raise PoisonEvent(f"must be an integer, not {type(value).__name__}")
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise PoisonEvent("must fit 64 bits")
    return value


def is_kept(event: Event, event_types: Collection[str]) -> bool:
    """Tell whether an event is a behavior: of one of these types; where none is named, every event is."""
    return not event_types or event.event_type in event_types


class PoisonGate:
    """Notices a broken producer: too many poison records among the last ones.

    One bad producer must not fill the dead-letter topic while user vectors silently stand still.
    """

    def __init__(self, max_fraction: float, window: int) -> None:
        self._max_fraction = max_fraction
        self._last: deque[bool] = deque(maxlen=window)
        self._num_poison = 0

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
