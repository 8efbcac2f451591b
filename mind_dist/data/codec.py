"""Outside ids and bytes ↔ inside keys and events: the one boundary where ids change form.

An int64 id is its own key; a string id is its xxh3-64 fingerprint. Nothing further inside asks which it was.
An event is JSON, `{"user_id":…, "item_id":…, "timestamp_ms":…, "event_type":"click"}`, under the key `user_id`; a null
value under a key means: forget this user.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Literal

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from mind_dist.errors import PoisonEvent, PoisonLimitExceeded
from mind_dist.records import Event, Keys, Record, Tombstone

IdType = Literal["int64", "string"]
"""What user and item ids are outside; one choice per deployment."""

_INT64_MAX = (1 << 63) - 1
_INTEGER = re.compile(rb"-?[0-9]{1,19}")


def fingerprint(text: str) -> int:
    """Return the xxh3-64 fingerprint of a text as a signed 64-bit integer."""
    unsigned = xxhash.xxh3_64_intdigest(text.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def feature_key(feature: str, value: object) -> int:
    """Return the key of one value of one item or user feature; features never share keys."""
    return fingerprint(f"{feature}\x1f{value}")


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


def encode_event(user_id: int | str, item_id: int | str, timestamp_ms: int, event_type: str = "click") -> bytes:
    """Return the value of a record that tells an event."""
    fields = {"user_id": user_id, "item_id": item_id, "timestamp_ms": timestamp_ms, "event_type": event_type}
    return orjson.dumps(fields)


def encode_key(user_id: int | str) -> bytes:
    """Return the key of a user's records; it picks their partition."""
    return str(user_id).encode()


def id_key(value: object, id_type: IdType) -> int:
    """Return the key of an outside id.

    >>> id_key(7, "int64")
    7

    Raises:
        PoisonEvent: The id is not of the deployment's type, out of int64, or empty.
    """
    if id_type == "int64":
        return _int64(value)
    if not isinstance(value, str):
        raise PoisonEvent(f"must be a string, not {type(value).__name__}")
    if not value:
        raise PoisonEvent("must not be empty")
    return fingerprint(value)


def decode(record: Record, id_type: IdType) -> Event | Tombstone:
    """Return what a record says; unknown fields are ignored.

    Raises:
        PoisonEvent: The key is missing, the value is no JSON object, or a field is missing or mistyped.
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
    return _event(fields, id_type)


def _event(fields: dict[str, Any], id_type: IdType) -> Event:
    name = "user_id"
    try:
        user_key = id_key(fields[name], id_type)
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
    return Event(user_key, item_key, timestamp_ms, event_type)


def _user_of(key: bytes, id_type: IdType) -> int:
    try:
        return id_key(key.decode() if id_type == "string" else _parse(key), id_type)
    except (UnicodeDecodeError, PoisonEvent) as error:
        raise PoisonEvent(f"key: {error}") from error


def _parse(digits: bytes) -> int:
    if not _INTEGER.fullmatch(digits):  # int() alone would take " 7", "+7" and "7_0"
        raise PoisonEvent("must be an integer in decimal digits")
    return int(digits)


def _int64(value: object) -> int:
    if type(value) is not int:  # True and 1.0 are not ids
        raise PoisonEvent(f"must be an integer, not {type(value).__name__}")
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise PoisonEvent("must fit 64 bits")
    return value


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
