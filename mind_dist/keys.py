"""Outside ids and values → the keys that stand for them inside: the one boundary where ids change form.

An int64 id is its own key; a string id is its xxh3-64 fingerprint. Nothing further inside asks which it was. Values of
features, of an event's kind and of its context are fingerprints of the feature's name and the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from mind_dist.config import ModelConfig
from mind_dist.errors import PoisonEvent
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.records import Keys

DEFAULT_TYPE = "click"
"""Event type where none is known."""


IdType = Literal["int64", "string"]
"""What user and item ids are outside; one choice per deployment."""


_INT64_MAX = (1 << 63) - 1


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


def id_key(value: object, id_type: IdType) -> int:
    """Return the key of an outside id.

    >>> id_key(7, "int64")
    7

    Raises:
        PoisonEvent: The id is not of the deployment's type, outside `FIRST_KEY` … `LAST_KEY`, empty, or no valid text.
    """
    if id_type == "int64":
        key = int64(value)
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
        raise PoisonEvent(f"must not be a JSON string in quotes: {shown(value.encode())}")
    return key


def is_json_string(text: str) -> bool:
    """Tell whether a text is a JSON string in its quotes, which no user may be named."""
    if not (text.startswith('"') and text.endswith('"')):
        return False
    try:
        return isinstance(orjson.loads(text), str)
    except orjson.JSONDecodeError:
        return False


def shown(key: bytes) -> str:
    """Return a key for an error's text, cut where it is long."""
    text = repr(key[:_MOST_SHOWN].decode(errors="backslashreplace"))
    return text if len(key) <= _MOST_SHOWN else f"{text} … ({len(key)} bytes)"


def int64(value: object) -> int:
    """Return an integer that fits 64 bits.

    Raises:
        PoisonEvent: It is no integer, or too large.
    """
    if type(value) is not int:  # True and 1.0 are not ids
        raise PoisonEvent(f"must be an integer, not {type(value).__name__}")
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise PoisonEvent("must fit 64 bits")
    return value
