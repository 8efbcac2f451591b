from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.data.codec import IdType, PoisonGate, decode, encode_event, encode_key, fingerprint, id_key
from mind_dist.errors import PoisonEvent, PoisonLimitExceeded
from mind_dist.records import Event, Record, Tombstone

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES_MS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ID_TYPES = st.sampled_from(["int64", "string"])

GOOD: dict[str, Any] = {"user_id": 7, "item_id": 8, "timestamp_ms": 9, "event_type": "click"}


def record(key: bytes | None, value: bytes | None) -> Record:
    return Record(0, 0, key, value, 0)


def decode_fields(fields: object, id_type: IdType = "int64") -> Event | Tombstone:
    return decode(record(b"7", orjson.dumps(fields)), id_type)


@given(INT64, INT64, TIMES_MS, TEXTS)
def test_integer_events_survive_encoding(user: int, item: int, timestamp_ms: int, event_type: str) -> None:
    encoded = record(encode_key(user), encode_event(user, item, timestamp_ms, event_type))
    assert decode(encoded, "int64") == Event(user, item, timestamp_ms, event_type)


@given(TEXTS, TEXTS, TIMES_MS)
def test_string_events_become_fingerprints(user: str, item: str, timestamp_ms: int) -> None:
    encoded = record(encode_key(user), encode_event(user, item, timestamp_ms))
    assert decode(encoded, "string") == Event(fingerprint(user), fingerprint(item), timestamp_ms, "click")


@given(INT64, TEXTS)
def test_a_null_value_forgets_the_user_of_the_key(user: int, name: str) -> None:
    assert decode(record(encode_key(user), None), "int64") == Tombstone(user)
    assert decode(record(encode_key(name), None), "string") == Tombstone(id_key(name, "string"))


@given(st.none() | st.binary(), st.none() | st.binary(), ID_TYPES)
def test_arbitrary_bytes_raise_nothing_but_poison(key: bytes | None, value: bytes | None, id_type: IdType) -> None:
    with suppress(PoisonEvent):
        assert isinstance(decode(record(key, value), id_type), Event | Tombstone)


JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4),
)


@given(JSON, ID_TYPES)
def test_arbitrary_json_raises_nothing_but_poison(value: object, id_type: IdType) -> None:
    with suppress(PoisonEvent):
        assert isinstance(decode(record(b"7", orjson.dumps(value)), id_type), Event)


def test_unknown_fields_are_ignored() -> None:
    assert decode_fields({**GOOD, "page": [1, 2]}) == Event(7, 8, 9, "click")


@pytest.mark.parametrize("field", list(GOOD))
def test_a_missing_field_is_poison_and_named(field: str) -> None:
    fields = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(PoisonEvent, match=f"{field}: missing"):
        decode_fields(fields)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("user_id", True, "must be an integer, not bool"),
        ("user_id", 7.0, "must be an integer, not float"),
        ("user_id", "7", "must be an integer, not str"),
        ("item_id", None, "must be an integer, not NoneType"),
        ("item_id", 2**63, "must fit 64 bits"),
        ("timestamp_ms", -1, "must not be negative"),
        ("timestamp_ms", 1.5, "must be an integer"),
        ("timestamp_ms", 2**63, "must fit 64 bits"),
        ("event_type", 3, "must be a string"),
    ],
)
def test_a_mistyped_field_is_poison_and_named(field: str, value: object, reason: str) -> None:
    with pytest.raises(PoisonEvent, match=f"{field}: {reason}"):
        decode_fields({**GOOD, field: value})


@pytest.mark.parametrize(("value", "reason"), [(7, "must be a string"), ("", "must not be empty")])
def test_string_deployments_refuse_other_ids(value: object, reason: str) -> None:
    with pytest.raises(PoisonEvent, match=f"item_id: {reason}"):
        decode_fields({**GOOD, "user_id": "u", "item_id": value}, "string")


@pytest.mark.parametrize("value", [b"", b"\xff", b"{", b"[]", b"3", b'{"user_id": NaN}', b"[" * 5000])
def test_a_value_that_is_no_json_object_is_poison(value: bytes) -> None:
    with pytest.raises(PoisonEvent, match="value: "):
        decode(record(b"7", value), "int64")


@pytest.mark.parametrize(
    ("key", "id_type"),
    [(None, "int64"), (b"x", "int64"), (b"+1", "int64"), (b"1_0", "int64"), (b"9" * 19, "int64"), (b"", "string")],
)
def test_a_tombstone_without_a_usable_key_is_poison(key: bytes | None, id_type: IdType) -> None:
    with pytest.raises(PoisonEvent, match="key: "):
        decode(record(key, None), id_type)


def test_an_event_without_a_key_is_poison_since_nothing_orders_it() -> None:
    with pytest.raises(PoisonEvent, match="key: missing"):
        decode(record(None, orjson.dumps(GOOD)), "int64")


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 10), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_gate_stops_exactly_at_the_first_window_above_the_limit(
    poison: list[bool], window: int, limit: float
) -> None:
    over = [end for end in range(window, len(poison) + 1) if sum(poison[end - window : end]) > limit * window]
    gate = PoisonGate(limit, window)
    stopped = None
    with suppress(PoisonLimitExceeded):
        for count, each in enumerate(poison, start=1):
            stopped = count
            gate.add(poison=each)
        stopped = None
    assert stopped == (over[0] if over else None)


def test_the_gate_names_what_it_counted() -> None:
    gate = PoisonGate(0.5, 4)
    for poison in (True, False, True):
        gate.add(poison=poison)
    with pytest.raises(PoisonLimitExceeded, match="3 of the last 4 records are poison, above the limit of 50%"):
        gate.add(poison=True)
