"""The rows of the item catalog: cold items, and when items are available."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mind_dist.config import LogConfig, MetadataConfig, PrepareConfig
from mind_dist.dataset.catalog import catalog_items, read_availability
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS
from mind_dist.errors import DatasetError
from mind_dist.keys import fingerprint

NEVER_ENDS = AVAILABILITY_LIMITS["available_until"]


def config(path: Path, columns: dict[str, Any], *, log: dict[str, Any] | None = None, **items: Any) -> PrepareConfig:
    pq.write_table(pa.table(columns), path / "items.parquet")
    metadata = MetadataConfig((str(path / "items.parquet"),), **items)
    id_type = "string" if isinstance(columns["item_id"][0], str) else "int64"
    return PrepareConfig("out", LogConfig(**({"time_unit": "s"} | (log or {}))), metadata, id_type=id_type)  # type: ignore[arg-type]


def kept(*items: int) -> pa.Table:
    return pa.table({"item": pa.array(items, pa.int64()), "id": pa.nulls(len(items), pa.string())})


def test_cold_items_with_ids_that_no_item_may_have_are_left_out(tmp_path: Path) -> None:
    found = catalog_items(config(tmp_path, {"item_id": [-(2**63), 5, 2**63 - 1]}), kept(2))
    assert found["item"].to_pylist() == [2, 5]


def test_rows_of_items_that_the_log_lacks_stay_as_cold_ones(tmp_path: Path) -> None:
    found = catalog_items(config(tmp_path, {"item_id": [9, 2, 9, 5, None, 1]}), kept(2, 3))
    assert found.to_pylist() == [
        {"item": 1, "id": "1", "is_cold": True},
        {"item": 2, "id": "2", "is_cold": False},
        {"item": 3, "id": "3", "is_cold": False},
        {"item": 5, "id": "5", "is_cold": True},
        {"item": 9, "id": "9", "is_cold": True},
    ]


def test_cold_items_are_left_out_when_asked_so_and_there_are_none_without_metadata(tmp_path: Path) -> None:
    assert catalog_items(config(tmp_path, {"item_id": [9]}, keep_cold=False), kept(2))["item"].to_pylist() == [2]
    assert catalog_items(PrepareConfig("out"), kept(2))["is_cold"].to_pylist() == [False]


def test_string_ids_of_cold_items_are_kept_beside_their_keys(tmp_path: Path) -> None:
    known = pa.table({"item": [fingerprint("b")], "id": ["b"]})
    found = catalog_items(config(tmp_path, {"item_id": ["a", "b", ""]}), known)
    assert {row["id"]: (row["item"], row["is_cold"]) for row in found.to_pylist()} == {
        "a": (fingerprint("a"), True),
        "b": (fingerprint("b"), False),
    }
    assert found["item"].to_pylist() == sorted(found["item"].to_pylist())


MOMENT_MS, DAY_MS = 1_700_000_000_000, 86_400_000
MOMENT = datetime.fromtimestamp(MOMENT_MS / 1000, UTC)


@pytest.mark.parametrize(
    ("form", "missing", "settings", "log"),
    [
        (lambda moment: int(moment.timestamp()), None, {}, {}),
        (lambda moment: str(int(moment.timestamp())), "", {}, {}),
        (lambda moment: float(moment.timestamp()), None, {}, {}),
        (lambda moment: int(moment.timestamp()) * 1_000_000, None, {"available_unit": "us"}, {}),
        (lambda moment: int(moment.timestamp()) * 1_000, None, {}, {"time_unit": "ms"}),
        (lambda moment: moment.isoformat(), None, {"available_unit": "iso"}, {}),
        (lambda moment: moment.isoformat(), " ", {"available_unit": "iso"}, {}),
        (lambda moment: moment, None, {}, {"time_unit": "ms"}),
        (lambda moment: moment.replace(tzinfo=None), None, {}, {}),
    ],
    ids=["s", "text", "real", "us", "ms of the log", "iso", "iso text", "timestamp", "timestamp without a zone"],
)
def test_any_form_of_time_becomes_milliseconds_and_a_missing_one_no_bound(
    tmp_path: Path, form: Callable[[datetime], Any], missing: Any, settings: dict[str, Any], log: dict[str, Any]
) -> None:
    later = MOMENT + timedelta(days=1)
    columns = {"item_id": [1, 2], "since": [form(MOMENT), missing], "to": [form(later), missing]}
    settings = {"available_from": "since", "available_until": "to", **settings}
    found = read_availability(config(tmp_path, columns, log=log, **settings), np.array([1, 2, 3]))
    assert {name: column.to_pylist() for name, column in found.columns.items()} == {
        "available_from": [MOMENT_MS, 0, 0],
        "available_until": [MOMENT_MS + DAY_MS, NEVER_ENDS, NEVER_ENDS],
    }
    assert all(column.type == pa.int64() for column in found.columns.values())
    assert found.num_bad == 0


def test_one_bound_may_be_known_and_the_other_not(tmp_path: Path) -> None:
    found = read_availability(config(tmp_path, {"item_id": [1], "to": [7]}, available_until="to"), np.array([1]))
    assert {name: column.to_pylist() for name, column in found.columns.items()} == {
        "available_from": [0],
        "available_until": [7000],
    }
    assert read_availability(config(tmp_path, {"item_id": [1]}), np.array([1])).columns == {}


def test_a_few_values_that_are_no_times_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    values = [str(place) for place in range(200)]
    values[7], values[8] = "soon", "-5"
    columns = {"item_id": list(range(200)), "to": values}
    found = read_availability(config(tmp_path, columns, available_until="to"), np.arange(200))
    assert found.num_bad == 2
    assert found.columns["available_until"].to_pylist()[6:10] == [6000, NEVER_ENDS, NEVER_ENDS, 9000]
    columns["to"] = ["soon"] * 200
    with pytest.raises(
        DatasetError, match="200 of 200 values of to are no times of that kind in the unit s, such as soon: set items"
    ):
        read_availability(config(tmp_path, columns, available_until="to"), np.arange(200))


def test_a_unit_that_is_too_coarse_and_mixed_up_columns_are_refused(tmp_path: Path) -> None:
    columns = {"item_id": [1, 2], "since": [MOMENT_MS] * 2, "to": [MOMENT_MS + DAY_MS] * 2}
    with pytest.raises(DatasetError, match=f"2 of 2 values of since .* unit s, such as {MOMENT_MS}: set items"):
        read_availability(config(tmp_path, columns, available_from="since"), np.array([1, 2]))
    mixed: dict[str, Any] = {"available_from": "to", "available_until": "since", "available_unit": "ms"}
    with pytest.raises(DatasetError, match="2 of 2 items are never available, since being before to"):
        read_availability(config(tmp_path, columns, **mixed), np.array([1, 2]))


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no column gone; it has item_id"):
        read_availability(config(tmp_path, {"item_id": [1]}, available_until="gone"), np.array([1]))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="'available_from' is the name of a column that every item has already"):
        PrepareConfig("out", items=MetadataConfig(("items",), columns=("available_from",)))
    with pytest.raises(ValueError, match="available_from must be empty where there are no paths"):
        MetadataConfig(available_until="to")
    with pytest.raises(ValueError, match="only items have availability"):
        PrepareConfig("out", users=MetadataConfig(("users",), available_until="to"))
