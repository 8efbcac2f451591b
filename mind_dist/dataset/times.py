"""Raw times → milliseconds since the epoch, and which unit a log's times are in; vectorised."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import LogConfig, TimeUnit
from mind_dist.dataset.numbers import EXACT_FLOAT, INT64_LIMITS, parse_integers, parse_reals
from mind_dist.dataset.raw_log import Fragment, plain, read_fragment
from mind_dist.errors import ConfigError

FIRST_MS = 788_918_400_000
"""1995-01-01: what is older is read in the wrong unit, or a default such as 0."""

_DAY_MS = 86_400_000
_MS_PER_UNIT = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
_ISO = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([ T]([01][0-9]|2[0-3])(:[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?)?)?$"
)
_NANOSECONDS = r"\.[0-9]{7,9}$"
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?")
_FEW = 64
_UNITS: tuple[TimeUnit, ...] = ("iso", "s", "ms", "us", "ns")
_SAMPLED_FRAGMENTS = 16
_SAMPLED_ROWS = 1_000
_ENOUGH = 0.9

Sample = Sequence[tuple[str, pa.Array]]
"""Some of a log's raw times, none null, with the file they stand in."""


@dataclass(frozen=True)
class Times:
    """How the times of a log are read.

    Attributes:
        unit: Their unit, never `auto`.
        last_ms: The latest time an event may have; one day after preparing began.
    """

    unit: TimeUnit
    last_ms: int

    @property
    def are_positions(self) -> bool:
        """Tell whether they are positions in an order and no times, which have no bounds but 0."""
        return self.unit == "order"


def times_of(log: LogConfig, fragments: Sequence[Fragment], now_ms: int) -> Times:
    """Return how a log's times are read: as its setting says, or as the first rows of some of its fragments say.

    One unit holds for the whole log. Rows in another then lie before 1995 or in the future, and are rejected.

    Raises:
        ConfigError: The unit is to be found, and no unit or more than one makes times of the values.
        DatasetError: A file is torn or lacks the column.
    """
    last_ms = now_ms + _DAY_MS
    if log.time_unit != "auto":
        return Times(log.time_unit, last_ms)
    sample = [(uri, values) for uri, values in _samples(log, fragments) if len(values)]
    return Times(_unit_of(sample, last_ms) if sample else "s", last_ms)


def _samples(log: LogConfig, fragments: Sequence[Fragment]) -> Iterator[tuple[str, pa.Array]]:
    """Yield the first values of some fragments, evenly chosen, with the file of each."""
    places = np.linspace(0, len(fragments) - 1, min(len(fragments), _SAMPLED_FRAGMENTS)).astype(int).tolist()
    for place in places:
        batches = read_fragment(log, fragments[place], {"": log.timestamp_column}, batch_rows=_SAMPLED_ROWS)
        for batch in islice(batches, 1):
            yield fragments[place].uri, plain(batch.table[""].combine_chunks()[:_SAMPLED_ROWS]).drop_null()


def _unit_of(sample: Sample, last_ms: int) -> TimeUnit:
    """Return the unit in which nearly all values are plausible times.

    Raises:
        ConfigError: There is none, or values of several units are mixed.
    """
    found = {unit: sum(int(pc.sum(_plausible(each, unit, last_ms)).as_py()) for _, each in sample) for unit in _UNITS}
    best = max(_UNITS, key=lambda unit: found[unit])
    if found[best] >= _ENOUGH * sum(len(values) for _, values in sample):
        return best
    others = [unit for unit in _UNITS if found[unit] and unit != best]
    raise ConfigError("log.time_unit", _undecided(sample, [best, *others] if found[best] else [], last_ms))


def _plausible(values: pa.Array, unit: TimeUnit, last_ms: int) -> pa.Array:
    times = parse_times(values, unit)
    return pc.and_(pc.greater_equal(times, FIRST_MS), pc.less_equal(times, last_ms)).fill_null(False)


def _undecided(sample: Sample, units: Sequence[TimeUnit], last_ms: int) -> str:
    """Return why no unit can be told: values, and what they would be in each unit. `units` has the plausible ones."""
    ask = "set it, or set it to order where the values are positions and no times"
    chosen = [[(uri, each.filter(_plausible(each, unit, last_ms))) for uri, each in sample] for unit in units[:2]]
    if len(units) > 1:
        shown = " but ".join(_example(values, [unit]) for unit, values in zip(units, chosen, strict=False))
        return f"the log mixes units: {shown}; {ask}"
    strange = sample
    if units:
        strange = [(uri, each.filter(pc.invert(_plausible(each, units[0], last_ms)))) for uri, each in sample]
    return f"cannot tell which it is: {_example(strange, _UNITS[1:])}, and none of it lies between 1995 and now; {ask}"


def _example(sample: Sample, units: Sequence[TimeUnit]) -> str:
    """Return the first value, where it stands, and what it is in each unit."""
    uri, values = next((uri, values) for uri, values in sample if len(values))
    moments = [(unit, parse_times(values[:1], unit)[0].as_py()) for unit in units]
    read = ", ".join(f"{moment_text(ms)} in {unit}" for unit, ms in moments if ms is not None) or "a time in no unit"
    return f"{values[0]} in {uri} is {read}"


def moment_text(time_ms: int) -> str:
    """Return a time as a person reads it.

    >>> moment_text(1_700_000_000_000), moment_text(1_700_000_000_000_000)
    ('2023-11-14 22:13:20', 'the year 55840')
    """
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"the year {1970 + int(time_ms / (365.2425 * _DAY_MS))}"


def parse_times(column: pa.Array, unit: TimeUnit) -> pa.Array:
    """Return times as int64 milliseconds, or positions as they are; null where a value is none in this unit.

    Arrow's own times and dates mean what their type says, whatever the unit.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if unit == "order":
        return parse_integers(column)
    if unit == "iso":
        return _iso_times(column)
    factor, divisor = _MS_PER_UNIT[unit]
    whole = _scale_integers(parse_integers(column), factor, divisor)
    return pc.coalesce(whole, _scale_reals(parse_reals(column), factor / divisor))


def _scale_integers(values: pa.Array, factor: int, divisor: int) -> pa.Array:
    """Return integers in milliseconds; what is negative or too large stays so, and is refused by its bounds."""
    known = np.asarray(values.fill_null(0))
    scaled = np.clip(known, -1, INT64_LIMITS[1] // factor) // divisor * factor
    return pa.array(scaled, mask=np.asarray(values.is_null()))


def _scale_reals(values: pa.Array, factor: float) -> pa.Array:
    known = np.asarray(values.fill_null(0))
    scaled = np.clip(np.round(known * factor), -1, EXACT_FLOAT).astype(np.int64)
    return pa.array(scaled, mask=np.asarray(values.is_null()))


def _iso_times(column: pa.Array) -> pa.Array:
    """Return ISO 8601 texts as times; a text without a zone, or with `UTC` at its end as BigQuery writes it, is UTC."""
    if not pa.types.is_string(column.type):
        return pa.nulls(len(column), pa.int64())
    moments, shifts_ms = _without_ending(_without_ending(column, " UTC"), "Z"), pa.scalar(0, pa.int64())
    formed = pc.match_substring_regex(moments, _ISO)
    if not pc.all(formed).as_py():
        moments, shifts_ms = _without_offset(moments)
        formed = pc.match_substring_regex(moments, _ISO)
    found = pc.subtract(_cast_or_null(pc.if_else(formed, moments, None)), shifts_ms)
    if pc.all(formed).as_py():
        return found
    return pc.coalesce(found, _rare_forms(pc.if_else(formed, None, column)))


def _without_ending(texts: pa.Array, ending: str) -> pa.Array:
    ends = pc.ends_with(texts, ending)
    if not pc.any(ends).as_py():
        return texts
    return pc.if_else(ends, pc.utf8_slice_codeunits(texts, 0, -len(ending)), texts)


def _without_offset(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return texts without an offset such as `+02:00` at their end, and the offsets in milliseconds, 0 where none is.

    Arrow casts texts with an offset itself, at a tenth of the speed; of offsets there are few distinct ones.
    """
    moments, shifts_ms = texts, pa.array(np.zeros(len(texts), np.int64))
    timed = pc.match_substring(texts, ":").fill_null(False)  # the end of 2024-01-01 is no offset
    for length in (len("+02:00"), len("+0200"), len("+02")):
        ends = pc.utf8_slice_codeunits(texts, -length, None).dictionary_encode()
        known = pa.array([_offset_ms(end) for end in ends.dictionary.to_pylist()], pa.int64()).take(ends.indices)
        found = pc.and_(timed, known.is_valid())
        moments = pc.if_else(found, pc.utf8_slice_codeunits(texts, 0, -length), moments)
        shifts_ms = pc.if_else(found, known, shifts_ms)
    return moments, shifts_ms


def _offset_ms(text: str) -> int | None:
    """Return an offset in milliseconds; None of a text that is none."""
    found = _OFFSET.fullmatch(text)
    if found is None:
        return None
    minutes = int(found["hours"]) * 60 + int(found["minutes"] or 0)
    return (-60_000 if found["sign"] == "-" else 60_000) * minutes


def _cast_or_null(texts: pa.Array) -> pa.Array:
    """Return well-formed texts as times, null where one is none (30 February): halves are tried until it is alone.

    Arrow reads millions a second, but takes microseconds for each that it cannot read.
    """
    fine = pc.any(pc.match_substring_regex(texts, _NANOSECONDS)).as_py()
    try:
        moments = texts.cast(pa.timestamp("ns" if fine else "us"))
    except pa.ArrowInvalid:
        if len(texts) <= _FEW:
            return pa.array([_iso_time(text) for text in texts.to_pylist()], pa.int64())
        half = len(texts) // 2
        return pa.concat_arrays([_cast_or_null(texts[:half]), _cast_or_null(texts[half:])])
    return moments.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())


def _rare_forms(texts: pa.Array) -> pa.Array:
    """Return texts as times by Python's own reader, each distinct one once."""
    encoded = texts.dictionary_encode()
    moments = pa.array([_iso_time(text) for text in encoded.dictionary.to_pylist()], pa.int64())
    return moments.take(encoded.indices)


def _iso_time(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    since_epoch = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000 + since_epoch.microseconds // 1_000
