"""A folder of Parquet files → its datasets, and what each is measured with.

    NAME.parquet        a log: `user_id` and `item_id` (integers or texts), `timestamp` (integers or Arrow's times)
    NAME.items.parquet  what is known of items, where there is anything: `item_id`, and columns of any kind

Times that would all lie before 1995 are taken for positions in an order. Columns of items become features by what they
hold: lists and texts of several words, each value of them; numbers with a fraction and times, in buckets; the rest where a
value is shared by items, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute as pc

from benchmarks.dataset_info import DATASETS, DatasetInfo
from mind_dist.config import FeatureConfig, TimeUnit
from mind_dist.errors import ConfigError
from mind_dist.limits import allowed_name

_ITEMS = ".items.parquet"
_LOG = ".parquet"
_FIRST_S = 788_918_400  # 1995, before which no log's times lie
_LENGTHS = (20, 50, 100, 200)
_MIN_EVENTS = 5
_WHOLE_SHARE = 75
"""Percentage of the users whose whole history is to be read, where 200 behaviors suffice for it."""

_SEPARATORS = {"|": 0.1, ";": 0.5, ",": 0.5, " ": 0.1}
"""What may stand between the values of a text → in what share of an items' column it must, to be taken for that."""

_MOST_CATEGORIES = 1000
"""Values of a column that diversity can be taken over."""


def names_in(data: str) -> tuple[str, ...]:
    """Return the datasets of a folder, by name.

    Raises:
        ConfigError: It is none, or has none.
    """
    if not Path(data).is_dir():
        raise ConfigError("data", f"{data!r} is no folder")
    files = sorted(path.name for path in Path(data).glob(f"*{_LOG}"))
    names = tuple(name.removesuffix(_LOG) for name in files if not name.endswith(_ITEMS))
    if not names:
        raise ConfigError("data", f"{data!r} holds no NAME.parquet with user_id, item_id and timestamp")
    return names


def log_file(name: str, data: str) -> Path:
    """Return where a dataset's log lies.

    Raises:
        ConfigError: It does not lie there.
    """
    path = Path(data) / f"{name}{_LOG}"
    if not data or not path.is_file():
        raise ConfigError("data", f"{name} needs the folder that holds {name}.parquet, not {data!r}")
    return path


def items_file(name: str, data: str) -> Path:
    """Return where what is known of a dataset's items lies, if anything is."""
    return Path(data) / f"{name}{_ITEMS}"


@lru_cache(maxsize=64)
def info_of(name: str, data: str) -> DatasetInfo:
    """Return what a dataset is measured with: as docs/quality.md has it, or derived from its files.

    Raises:
        ConfigError: Its log lacks a column or has one of another type.
    """
    if name in DATASETS:
        return DATASETS[name]
    log = log_file(name, data)
    _check(log, "user_id", _is_id)
    _check(log, "item_id", _is_id)
    _check(log, "timestamp", _is_time)
    features = _features(items_file(name, data))
    return DatasetInfo(
        _length(log), _category(items_file(name, data), features), features, (), _unit(log), _id_type(log)
    )


def _check(path: Path, column: str, allowed: Callable[[pa.DataType], bool]) -> None:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError("data", f"{path} is no Parquet file: {error}") from error
    if column not in schema.names:
        raise ConfigError("data", f"{path} has no column {column}, but {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not allowed(kind):
        raise ConfigError(
            "data", f"{column} of {path} is {kind}: ids are integers or texts, times integers or Arrow's own"
        )


def _is_id(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _unit(log: Path) -> TimeUnit:
    times = pq.read_table(log, columns=["timestamp"])["timestamp"]
    last = pc.max(times).as_py() if pa.types.is_integer(times.type) else None
    return "order" if last is not None and last < _FIRST_S else "auto"


def _id_type(log: Path) -> Literal["int64", "string"]:
    schema = pq.read_schema(log)
    return "string" if any(_is_text(schema.field(name).type) for name in ("user_id", "item_id")) else "int64"


def _length(log: Path) -> int:
    """Return the least usual L that holds the whole history of three of four users, or the largest."""
    users = pq.read_table(log, columns=["user_id"])["user_id"]
    counts = pc.value_counts(users.combine_chunks()).field("counts").to_numpy()
    counts = counts[counts >= _MIN_EVENTS]
    wanted = np.percentile(counts, _WHOLE_SHARE) if len(counts) else 0
    return next((length for length in _LENGTHS if length >= wanted), _LENGTHS[-1])


def _features(path: Path) -> tuple[FeatureConfig, ...]:
    if not path.is_file():
        return ()
    _check(path, "item_id", _is_id)
    table = pq.read_table(path)
    found = (
        _feature(name, table[name].combine_chunks().drop_null()) for name in table.column_names if name != "item_id"
    )
    return tuple(feature for feature in found if feature is not None)


def _feature(name: str, values: pa.Array) -> FeatureConfig | None:
    """Return what a column of the items is to the model; None where no two items share a value of it."""
    kind, feature = values.type, FeatureConfig(allowed_name(name), column=name)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return replace(feature, kind="categories")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return replace(feature, kind="buckets") if pc.count_distinct(values).as_py() > 1 else None
    if _is_text(kind):
        for separator, share in _SEPARATORS.items():
            separated = pc.sum(pc.match_substring(pc.utf8_trim_whitespace(values), separator)).as_py() or 0
            if separated > share * len(values):
                return replace(feature, kind="categories", separator=separator)
    shared = 1 < pc.count_distinct(values).as_py() <= len(values) / 2
    return feature if shared else None


def _category(path: Path, features: tuple[FeatureConfig, ...]) -> str:
    """Return the feature that diversity is taken over: one named so, or the first of few values; empty without one."""
    kinds = [
        feature for feature in features if feature.kind != "buckets" and _num_values(path, feature) <= _MOST_CATEGORIES
    ]
    named = [feature for feature in kinds if feature.name.lower().startswith(("categor", "genre"))]
    several = [feature for feature in named if feature.kind == "categories"]
    alone = [feature for feature in kinds if feature.kind == "category"]
    return next((feature.name for feature in (*several, *named, *alone)), "")


def _num_values(path: Path, feature: FeatureConfig) -> int:
    values = pq.read_table(path, columns=[feature.column])[feature.column].combine_chunks().drop_null()
    if feature.kind == "categories":
        values = pc.list_flatten(pc.split_pattern(values, feature.separator) if _is_text(values.type) else values)
    return int(pc.count_distinct(values).as_py())
