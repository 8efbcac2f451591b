from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.errors import PoisonEvent, PoisonLimitExceeded
from mind_dist.keys import EventFeatures, IdType, behavior_key, context_key, fingerprint, id_key, no_context
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.log.codec import PoisonGate, decode, encode_event, encode_key
from mind_dist.records import Event, History, Record, Tombstone

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.integers(FIRST_KEY, LAST_KEY)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
USER_TEXTS = TEXTS.filter(lambda text: not text.startswith('"'))
ID_TYPES = st.sampled_from(["int64", "string"])

GOOD: dict[str, Any] = {"user_id": 7, "item_id": 8, "timestamp_ms": 9, "event_type": "click"}


NOW_MS = 1_700_000_000_000
SKEW_MS = 3_600_000
TIMES_MS = st.integers(0, NOW_MS + SKEW_MS)


def record(key: bytes | None, value: bytes | None) -> Record:
    return Record(0, 0, key, value, appended_ms=NOW_MS)


def decoded(record: Record, id_type: IdType) -> Event | History | Tombstone:
    return decode(record, id_type, max_clock_skew_ms=SKEW_MS)


def decode_fields(fields: object, id_type: IdType = "int64") -> Event | History | Tombstone:
    key = b"7" if id_type == "int64" else b"u"
    return decoded(record(key, orjson.dumps(fields)), id_type)


@given(KEYS, KEYS, TIMES_MS, TEXTS)
def test_integer_events_survive_encoding(user: int, item: int, timestamp_ms: int, event_type: str) -> None:
    encoded = record(encode_key(user), encode_event(user, item, timestamp_ms, event_type))
    assert decoded(encoded, "int64") == Event(user, item, timestamp_ms, event_type)


@given(USER_TEXTS, TEXTS, TIMES_MS)
def test_string_events_become_fingerprints(user: str, item: str, timestamp_ms: int) -> None:
    encoded = record(encode_key(user), encode_event(user, item, timestamp_ms))
    assert decoded(encoded, "string") == Event(fingerprint(user), fingerprint(item), timestamp_ms, "click")


@given(KEYS, USER_TEXTS)
def test_a_null_value_forgets_the_user_of_the_key(user: int, name: str) -> None:
    assert decoded(record(encode_key(user), None), "int64") == Tombstone(user)
    assert decoded(record(encode_key(name), None), "string") == Tombstone(id_key(name, "string"))


@given(st.none() | st.binary(), st.none() | st.binary(), ID_TYPES)
def test_arbitrary_bytes_raise_nothing_but_poison(key: bytes | None, value: bytes | None, id_type: IdType) -> None:
    with suppress(PoisonEvent):
        assert isinstance(decoded(record(key, value), id_type), Event | Tombstone)


JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4),
)


@given(JSON, ID_TYPES)
def test_arbitrary_json_raises_nothing_but_poison(value: object, id_type: IdType) -> None:
    with suppress(PoisonEvent):
        assert isinstance(decoded(record(b"7", orjson.dumps(value)), id_type), Event)


def test_what_an_event_says_of_itself_and_of_its_moment_becomes_keys() -> None:
    features = EventFeatures(("event_type", "device"), ("hour", "page", "event_type"))
    fields = {**GOOD, "context": {"device": "phone", "hour": 7, "page": [1, 2], "other": 1.5, "event_type": "not this"}}
    found = decode(record(b"7", orjson.dumps(fields)), "int64", max_clock_skew_ms=SKEW_MS, features=features)
    assert isinstance(found, Event)
    assert found.behavior_keys == (behavior_key("event_type", "click"), behavior_key("device", "phone"))
    hour, page, kind = context_key("hour", "7"), context_key("page", None), context_key("event_type", "click")
    assert found.context_keys == (hour, page, kind)
    silent = decode(record(b"7", orjson.dumps(GOOD)), "int64", max_clock_skew_ms=SKEW_MS, features=features)
    assert isinstance(silent, Event)
    assert silent.behavior_keys == (behavior_key("event_type", "click"), 0)
    assert silent.context_keys == (*no_context(("hour", "page")).tolist(), kind)


def test_a_context_survives_encoding_and_without_one_the_record_is_as_before() -> None:
    assert orjson.loads(encode_event(7, 8, 9, "click", {"page": "a", "hour": 7, "paid": True}))["context"] == {
        "page": "a",
        "hour": 7,
        "paid": True,
    }
    assert orjson.loads(encode_event(7, 8, 9)) == GOOD
    assert decode_fields({**GOOD, "context": None}) == decode_fields({**GOOD, "context": {"page": "a"}})


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
        ("user_id", FIRST_KEY - 1, f"must be between {FIRST_KEY} and {LAST_KEY}"),
        ("user_id", LAST_KEY + 1, f"must be between {FIRST_KEY} and {LAST_KEY}"),
        ("item_id", FIRST_KEY - 1, f"must be between {FIRST_KEY} and {LAST_KEY}"),
        ("item_id", LAST_KEY + 1, f"must be between {FIRST_KEY} and {LAST_KEY}"),
        ("timestamp_ms", -1, "must not be negative"),
        ("timestamp_ms", 1.5, "must be an integer"),
        ("timestamp_ms", 2**63, "must fit 64 bits"),
        ("event_type", 3, "must be a string"),
        ("context", "home", "must be an object, not str"),
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
        decoded(record(b"7", value), "int64")


UNUSABLE_KEYS: list[tuple[bytes | None, IdType]] = [
    (None, "int64"),
    (b"", "int64"),
    (b"x", "int64"),
    (b"+1", "int64"),
    (b"1_0", "int64"),
    (b"07", "int64"),
    (b"-0", "int64"),
    (b"9" * 19, "int64"),
    (str(FIRST_KEY - 1).encode(), "int64"),
    (str(LAST_KEY + 1).encode(), "int64"),
    (b"", "string"),
    (b"\xff", "string"),
    (b'"u1"', "string"),
    (b'"\\u00fc"', "string"),
]


@pytest.mark.parametrize(("key", "id_type"), UNUSABLE_KEYS)
def test_a_tombstone_without_a_usable_key_is_poison(key: bytes | None, id_type: IdType) -> None:
    with pytest.raises(PoisonEvent, match="key: "):
        decoded(record(key, None), id_type)


def test_an_event_without_a_key_is_poison_since_nothing_orders_it() -> None:
    with pytest.raises(PoisonEvent, match="key: missing"):
        decoded(record(None, orjson.dumps(GOOD)), "int64")


@pytest.mark.parametrize(
    ("user_id", "key", "id_type"),
    [
        (7, b"8", "int64"),
        (7, b"07", "int64"),
        (7, b"", "int64"),
        (7, b"\x00\x00\x00\x00\x00\x00\x00\x07", "int64"),
        (7, b'"7"', "int64"),
        ("u1", b'"u1"', "string"),
        ("u1", b"U1", "string"),
        ("u1", b"", "string"),
        ("ü", "ü".encode("latin-1"), "string"),
    ],
)
def test_an_event_under_another_key_than_its_user_is_poison_and_both_are_named(
    user_id: int | str, key: bytes, id_type: IdType
) -> None:
    item_id = 8 if id_type == "int64" else "i"
    value = encode_event(user_id, item_id, 9)
    with pytest.raises(PoisonEvent, match=f"key: must be the user id, '{user_id}', not ") as raised:
        decoded(record(key, value), id_type)
    assert repr(key.decode(errors="backslashreplace")) in str(raised.value)


def test_a_long_key_is_cut_in_the_error() -> None:
    with pytest.raises(PoisonEvent, match=r"\(5000 bytes\)") as raised:
        decoded(record(b"k" * 5000, orjson.dumps(GOOD)), "int64")
    assert len(str(raised.value)) < 200


def test_no_user_may_have_a_name_in_json_quotes_since_it_could_not_be_forgotten() -> None:
    with pytest.raises(PoisonEvent, match="user_id: must not be a JSON string in quotes"):
        decoded(record(b'"u1"', encode_event('"u1"', "i", 9)), "string")
    assert decoded(record(b'"u1', encode_event('"u1', "i", 9)), "string") == Event(
        fingerprint('"u1'), fingerprint("i"), 9
    )


@pytest.mark.parametrize("ahead_ms", [0, SKEW_MS])
def test_an_event_within_the_clock_skew_is_taken(ahead_ms: int) -> None:
    assert decode_fields({**GOOD, "timestamp_ms": NOW_MS + ahead_ms}) == Event(7, 8, NOW_MS + ahead_ms)


@pytest.mark.parametrize("timestamp_ms", [NOW_MS + SKEW_MS + 1, NOW_MS * 1000, 2**63 - 1])
def test_an_event_of_the_future_is_poison_and_both_times_are_named(timestamp_ms: int) -> None:
    with pytest.raises(
        PoisonEvent, match=f"timestamp_ms: {timestamp_ms} is more than max_clock_skew_s .3600 s. ahead of {NOW_MS}"
    ):
        decode_fields({**GOOD, "timestamp_ms": timestamp_ms})


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
