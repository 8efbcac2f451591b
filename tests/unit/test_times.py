"""Raw times → milliseconds, and the unit of a log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.config import LogConfig, TimeUnit
from mind_dist.dataset.raw_log import list_fragments
from mind_dist.dataset.times import Times, parse_times, times_of
from mind_dist.errors import ConfigError

LIMIT = 1 << 63
NOW_MS = 1_750_000_000_000
DAY_MS = 86_400_000
MOMENT = int(datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
UNITS: list[tuple[TimeUnit, int]] = [("s", 1_000), ("ms", 1), ("us", 1), ("ns", 1)]


def ms_of(*texts: str | None) -> Any:
    return parse_times(pa.array(texts, pa.string()), "iso").to_pylist()


@pytest.mark.parametrize(("unit", "value"), [("s", 12), ("ms", 12_345), ("us", 12_345_678), ("ns", 12_345_678_901)])
def test_numbers_are_times_in_the_unit(unit: TimeUnit, value: int) -> None:
    expected = 12_000 if unit == "s" else 12_345
    texts, numbers = pa.array([str(value), "x", None]), pa.array([value, -value, None])
    assert parse_times(texts, unit).to_pylist() == [expected, None, None]
    assert parse_times(numbers, unit).to_pylist()[0] == expected
    assert parse_times(numbers, unit).to_pylist()[1] < 0


def test_fractions_of_seconds_are_kept_to_the_millisecond() -> None:
    assert parse_times(pa.array([1.001]), "s").to_pylist() == [1001]
    assert parse_times(pa.array(["2.5", "1700000000.123"]), "s").to_pylist() == [2500, 1_700_000_000_123]
    assert parse_times(pa.array(["1700000000123.456"]), "ms").to_pylist() == [1_700_000_000_123]


def test_a_time_too_large_for_milliseconds_lies_in_the_future() -> None:
    times = [*parse_times(pa.array([LIMIT - 1]), "s").to_pylist(), *parse_times(pa.array([1e300]), "s").to_pylist()]
    assert min(times) > NOW_MS
    assert parse_times(pa.array([-LIMIT]), "s").to_pylist()[0] < 0
    assert parse_times(pa.array([-1e300]), "s").to_pylist()[0] < 0


def test_positions_stay_as_they_are() -> None:
    assert parse_times(pa.array([0, 7, 57_742]), "order").to_pylist() == [0, 7, 57_742]
    assert parse_times(pa.array(["3", "x", "1.5"]), "order").to_pylist() == [3, None, None]


def test_iso_texts_are_times_with_and_without_a_zone() -> None:
    texts = ["2024-01-01T12:00:00Z", "2024-01-01T14:00:00+02:00", "2024-01-01", "2024-13-01", None]
    assert ms_of(*texts) == [MOMENT, MOMENT, MOMENT - DAY_MS // 2, None, None]
    assert ms_of("2024-01-01 12:00:00") == [MOMENT]
    assert parse_times(pa.array([1]), "iso").to_pylist() == [None]


@pytest.mark.parametrize(
    ("text", "millisecond"),
    [
        ("2024-01-01 12:00:00 UTC", 0),
        ("2024-01-01 12:00:00.123456 UTC", 123),
        ("2024-01-01 12:00:00.1 UTC", 100),
        ("2024-01-01T12:00:00.5", 500),
        ("2024-01-01T12:00:00.123456789Z", 123),
        ("2024-01-01 14:00:00.25+02", 250),
        ("2024-01-01 07:30:00-0430", 0),
    ],
)
@pytest.mark.parametrize("beside", ["2024-01-01 12:00:00 UTC", "2024-01-01T12:00:00", "2024-01-01T12:00:00Z", "never"])
def test_every_form_is_read_in_a_column_of_its_own_and_beside_others(text: str, millisecond: int, beside: str) -> None:
    assert ms_of(text, text) == [MOMENT + millisecond] * 2
    other = None if beside == "never" else MOMENT
    assert ms_of(*[text, beside, None] * 100) == [MOMENT + millisecond, other, None] * 100


@given(
    st.lists(st.integers(0, 200_000_000_000_000_000), min_size=1, max_size=200),
    st.sampled_from(
        ["%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S"]
    ),
    st.integers(0, 199),
)
def test_forms_of_a_time_equal_what_python_says(microseconds: list[int], form: str, bad: int) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    moments = [epoch + timedelta(microseconds=each) for each in microseconds]
    texts: list[str | None] = [f"{moment.year:04d}" + moment.strftime(form.removeprefix("%Y")) for moment in moments]
    whole = [moment if "%f" in form else moment.replace(microsecond=0) for moment in moments]
    expected = [
        (m - epoch).days * DAY_MS + (m - epoch).seconds * 1000 + (m - epoch).microseconds // 1000 for m in whole
    ]
    found = ms_of(*texts)
    assert found == expected
    assert ms_of(*texts[:bad], "no time", *texts[bad:]) == [*found[:bad], None, *found[bad:]]


def test_the_types_of_arrow_say_what_a_time_is() -> None:
    moment = datetime(2024, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    expected = [int(moment.timestamp() * 1000)]
    assert parse_times(pa.array([moment], pa.timestamp("us", "UTC")), "s").to_pylist() == expected
    assert parse_times(pa.array([moment.date()]), "s").to_pylist() == [expected[0] - 1500]


def detected(path: Path, *files: Any, **settings: Any) -> Times:
    for number, values in enumerate(files):
        pq.write_table(pa.table({"timestamp": values}), path / f"{number}.parquet", row_group_size=50)
    log = LogConfig(tuple(str(path / f"{number}.parquet") for number in range(len(files))), **settings)
    return times_of(log, list_fragments(log), NOW_MS)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_unit_of_numbers_is_found(tmp_path: Path, unit: str, factor: int, as_text: bool) -> None:
    values = [(1_700_000_000 + second) * factor for second in range(200)]
    found = detected(tmp_path, [str(value) for value in values] if as_text else values)
    assert (found.unit, found.last_ms) == (unit, NOW_MS + DAY_MS)


@pytest.mark.parametrize(
    "texts", [["2024-01-01 12:00:00 UTC"], ["2024-01-01"], ["2024-01-01T12:00:00+02:00", None], ["20240101"]]
)
def test_texts_are_found_to_be_iso(tmp_path: Path, texts: list[str | None]) -> None:
    assert detected(tmp_path, texts).unit == "iso"


def test_a_few_strange_values_do_not_hide_the_unit(tmp_path: Path) -> None:
    assert detected(tmp_path, [0, -1, 57_742, *range(1_700_000_000, 1_700_000_060)]).unit == "s"


def test_a_log_of_times_of_arrow_needs_no_unit(tmp_path: Path) -> None:
    moments = pa.array([MOMENT], pa.timestamp("ms"))
    assert parse_times(moments, detected(tmp_path, moments).unit).to_pylist() == [MOMENT]


def test_without_values_there_is_nothing_to_find(tmp_path: Path) -> None:
    assert detected(tmp_path, pa.array([], pa.int64()), pa.array([None], pa.int64())).unit == "s"


def test_positions_are_not_taken_for_times(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as stopped:
        detected(tmp_path, range(100))
    assert str(stopped.value) == (
        f"log.time_unit: cannot tell which it is: 0 in {tmp_path}/0.parquet is 1970-01-01 00:00:00 in s, 1970-01-01 00:00:00 in ms, "
        "1970-01-01 00:00:00 in us, 1970-01-01 00:00:00 in ns, and none of it lies between 1995 and now; set it, or set it to order "
        "where the values are positions and no times"
    )
    assert detected(tmp_path, range(100), time_unit="order") == Times("order", NOW_MS + DAY_MS)


def test_values_that_are_no_times_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"soon in .*0\.parquet is a time in no unit"):
        detected(tmp_path, ["soon", "later"])


def test_mixed_units_are_refused_with_a_value_of_each(tmp_path: Path) -> None:
    seconds, milliseconds = [1_700_000_000] * 100, [1_700_000_000_000] * 100
    with pytest.raises(ConfigError) as stopped:
        detected(tmp_path, seconds, milliseconds)
    assert str(stopped.value).startswith(
        f"log.time_unit: the log mixes units: 1700000000 in {tmp_path}/0.parquet is 2023-11-14 22:13:20 in s "
        f"but 1700000000000 in {tmp_path}/1.parquet is 2023-11-14 22:13:20 in ms; "
    )


def test_a_year_far_ahead_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1760000000000000000000 .* is a time in no unit"):
        detected(tmp_path, ["1760000000000000000000"])
    with pytest.raises(ConfigError, match=r"the year 57742 in s, 2025-\d\d-\d\d .* in ms"):
        detected(tmp_path, [1_760_000_000_000] * 9 + [0] * 9)


def test_a_set_unit_is_taken_as_it_is(tmp_path: Path) -> None:
    assert detected(tmp_path, range(100), time_unit="ms").unit == "ms"


def test_the_unit_of_a_csv_is_found_from_its_first_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,timestamp\n" + "1,1700000000.5\n" * 20)
    log = LogConfig((str(tmp_path / "log.csv"),), "csv")
    assert times_of(log, list_fragments(log), NOW_MS).unit == "s"
