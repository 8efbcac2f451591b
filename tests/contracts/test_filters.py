"""What every vector store makes of a filter, over the in-memory one, Milvus Lite and Milvus standalone."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mind_dist.errors import InvalidRequest, VectorStoreError
from mind_dist.index.filters import MAX_FILTER_BYTES, MAX_FILTER_VALUES
from mind_dist.index.vector_store import Column, Filter, ItemRows, VectorStore, VersionInfo
from mind_dist.limits import MAX_COLUMNS

DIM, NUM_ITEMS = 4, 240
COLUMNS = (
    Column("title", nullable=True),
    Column("released"),
    Column("year", "integer", nullable=True),
    Column("stock", "integer"),
    Column("price", "real", nullable=True),
    Column("rating", "real"),
    Column("genres", "texts"),
)
TEXTS = ["", "a", "a b", 'x" or price > 0 or title == "', "\\", "é", "😀", "\uffee", "Z", "\n"]
DATES = ["2024-02-29", "2024-10-01", "2025-01-31", "1999-12-31"]
INTEGERS = [0, 1, -1, 1995, 2**53 + 1, -(2**63) + 1, 2**63 - 1]
REALS = [0.0, -0.0, 19.99, 20.0, -1e-7, 1e308, 5e-324]
GENRES = ["drama", "war", '"', "", "é"]
POOLS: dict[str, list[Any]] = {
    "title": TEXTS,
    "released": DATES,
    "year": INTEGERS,
    "stock": [0, 3, 7],
    "price": REALS,
    "rating": [0.0, 2.5, 5.0],
    "genres": GENRES,
}
NUMBER = itertools.count()


def make_columns() -> dict[str, list[Any]]:
    rng = np.random.default_rng(5)

    def value(column: Column) -> Any:
        pool = POOLS[column.name]
        if column.kind == "texts":
            return [pool[i] for i in range(len(pool)) if rng.random() < 0.3]
        return None if column.nullable and rng.random() < 0.3 else pool[rng.integers(len(pool))]

    return {column.name: [value(column) for _ in range(NUM_ITEMS)] for column in COLUMNS}


VALUES = make_columns()
ITEMS = ItemRows(
    np.arange(NUM_ITEMS, dtype=np.int64),
    np.random.default_rng(0).normal(size=(NUM_ITEMS, DIM)).astype(np.float32),
    VALUES,
)
QUERY = np.ones((1, DIM), np.float32)


def make_info(**changes: Any) -> VersionInfo:
    name = f"v{next(NUMBER):08d}_filters_{os.getpid():x}"
    info = VersionInfo(name, DIM, 2, "inner_product", "file:///v", 5, columns=COLUMNS)
    return dataclasses.replace(info, **changes)


@pytest.fixture(scope="module")
def filled(store: VectorStore) -> VersionInfo:
    info = make_info()
    store.create_version(info)
    store.upsert_items(info.model_version, ITEMS)
    assert store.count_items(info.model_version) == NUM_ITEMS
    return info


def found(store: VectorStore, info: VersionInfo, filter: Filter) -> list[int]:
    [hits] = store.search_items(info.model_version, QUERY, NUM_ITEMS, filter=filter)
    return sorted(hits.keys.tolist())


def agrees(filter: Filter, item: int) -> bool:
    """Tell by the plainest reading whether an item meets a filter."""
    return all(_meets(VALUES[name][item], wanted) for name, wanted in filter.items())


def _meets(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Mapping):
        return _meets(value, {"in": wanted if isinstance(wanted, list) else [wanted]})
    values = value if isinstance(value, list) else [] if value is None else [value]
    return all(_holds(values, operator, operand) for operator, operand in wanted.items())


def _holds(values: Sequence[Any], operator: str, operand: Any) -> bool:
    readings: dict[str, Callable[[], bool]] = {
        "lt": lambda: any(value < operand for value in values),
        "lte": lambda: any(value <= operand for value in values),
        "gt": lambda: any(value > operand for value in values),
        "gte": lambda: any(value >= operand for value in values),
        "in": lambda: bool(set(values) & set(operand)),
        "not_in": lambda: not set(values) & set(operand),
        "null": lambda: (not values) == operand,
    }
    return readings[operator]()


def wishes(column: Column) -> st.SearchStrategy[Any]:
    values = st.sampled_from(POOLS[column.name])
    several = st.lists(values, min_size=1, max_size=4)
    ranges = () if column.kind == "texts" else ("lt", "lte", "gt", "gte")
    operators = {**dict.fromkeys(ranges, values), "in": several, "not_in": several, "null": st.booleans()}
    one = st.sampled_from(sorted(operators)).flatmap(lambda name: operators[name].map(lambda operand: {name: operand}))
    objects = st.lists(one, min_size=1, max_size=3).map(lambda parts: {k: v for part in parts for k, v in part.items()})
    return objects | values | several


FILTERS = st.lists(st.sampled_from(COLUMNS), max_size=3, unique=True).flatmap(
    lambda columns: st.fixed_dictionaries({column.name: wishes(column) for column in columns})
)


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(filter=FILTERS)
def test_any_filter_finds_what_the_plain_reading_finds(store: VectorStore, filled: VersionInfo, filter: Filter) -> None:
    assert found(store, filled, filter) == [item for item in range(NUM_ITEMS) if agrees(filter, item)]


OPERATORS: list[Filter] = [
    {"price": {"lt": 20}},
    {"price": {"gte": -1e308, "lte": 1e308}},
    {"price": 0},
    {"price": {"not_in": [0]}},
    {"price": {"in": [0, 20], "gt": 0}},
    {"price": {"null": True}},
    {"price": {"null": False, "lt": 0.0}},
    {"rating": {"null": True}},
    {"rating": {"null": False}},
    {"year": {"gt": 2**53}},
    {"year": {"lt": -(2**63) + 2}},
    {"title": {"in": [""]}},
    {"title": {"not_in": [""]}},
    {"title": {"not_in": ["a"]}},
    {"title": {"lt": "\uffef", "gt": "Z"}},
    {"released": {"gte": "2024-03-01", "lt": "2025"}},
    {"genres": {"not_in": ["drama", "war"]}},
    {"genres": {"null": True}},
    {"genres": {"null": False, "not_in": [""]}},
    {"genres": {"in": ["drama"], "not_in": ["war"]}},
]


@pytest.mark.parametrize("filter", OPERATORS, ids=repr)
def test_each_operator_finds_what_the_plain_reading_finds(
    store: VectorStore, filled: VersionInfo, filter: Filter
) -> None:
    assert found(store, filled, filter) == [item for item in range(NUM_ITEMS) if agrees(filter, item)]


def test_every_operator_on_every_column_at_once_is_taken(store: VectorStore, filled: VersionInfo) -> None:
    everything: dict[str, Any] = {}
    for column in COLUMNS:
        pool = sorted(POOLS[column.name])
        ranges = {} if column.kind == "texts" else {"lt": pool[-1], "lte": pool[-1], "gt": pool[0], "gte": pool[0]}
        everything[column.name] = {"null": False, "not_in": pool[:1], "in": pool[1:], **ranges}
    assert found(store, filled, everything) == [i for i in range(NUM_ITEMS) if agrees(everything, i)]


def test_as_many_columns_as_there_may_be_are_filtered_at_once(store: VectorStore) -> None:
    """Milvus standalone refuses a plain chain of 64 conditions."""
    columns = tuple(Column(f"c{i}", "integer", nullable=True) for i in range(MAX_COLUMNS))
    info = make_info(columns=columns)
    store.create_version(info)
    values: dict[str, Sequence[Any]] = {column.name: [1, 2, None, 4] for column in columns}
    store.upsert_items(info.model_version, ItemRows(np.arange(4), ITEMS.vectors[:4], values))
    assert store.count_items(info.model_version) == 4
    bounds: dict[str, Any] = {"gt": -1, "lt": 4, "not_in": [1], "null": False}
    assert found(store, info, {column.name: bounds for column in columns}) == [1]
    store.drop_version(info.model_version)


def test_missing_values_come_back_as_none(store: VectorStore, filled: VersionInfo) -> None:
    names = [column.name for column in COLUMNS]
    [hits] = store.search_items(filled.model_version, QUERY, NUM_ITEMS, columns=names)
    for name in names:
        assert list(hits.columns[name]) == [VALUES[name][key] for key in hits.keys]


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"price": {}}, "filter price: needs at least one of lt, lte, gt, gte, in, not_in, null"),
        ({"price": {"below": 3}}, "filter price: unknown operator 'below'; known: lt, lte"),
        ({"price": {3: 3}}, "filter price: unknown operator 3"),
        ({"price": {"lt": "20"}}, "filter price.lt: '20' is not allowed in a column of kind real"),
        ({"price": {"lt": [20]}}, r"filter price.lt: \[20\] is not allowed"),
        ({"price": {"lt": None}}, "filter price.lt: None is not allowed"),
        ({"price": {"gte": float("inf")}}, "filter price.gte: inf is not allowed"),
        ({"price": {"gte": 10**400}}, "filter price.gte: 1000"),
        ({"price": {"gte": True}}, "filter price.gte: True is not allowed"),
        ({"year": {"lt": 19.5}}, "filter year.lt: 19.5 is not allowed in a column of kind integer"),
        ({"year": {"in": 1995}}, "filter year.in: 1995 must be a list"),
        ({"title": {"in": "drama"}}, "filter title.in: 'drama' must be a list"),
        ({"year": {"not_in": []}}, "filter year.not_in: needs at least one value"),
        ({"year": {"not_in": ["1"]}}, "filter year.not_in: '1' is not allowed"),
        ({"year": {"null": 1}}, "filter year.null: 1 must be true or false"),
        ({"genres": {"lt": "a"}}, "filter genres.lt: a column of several texts has no ranges"),
        ({"title": {"lt": "bell\x07"}}, "filter title.lt: "),
        ({"missing_columns": {"null": True}}, "unknown column 'missing_columns'"),
        ({"price < 3 or price": {"lt": 3}}, "unknown column"),
        ({"year": list(range(MAX_FILTER_VALUES)), "stock": 1}, "filter: 1,001 values, at most 1,000"),
        ({"title": ["x" * (MAX_FILTER_BYTES // 10) + str(i) for i in range(10)]}, "bytes of text, at most 1,000,000"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_bad_operator_is_an_invalid_request(
    store: VectorStore, filled: VersionInfo, filter: Filter, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        store.search_items(filled.model_version, QUERY, 5, filter=filter)


def test_the_most_values_a_filter_may_have_are_answered(store: VectorStore, filled: VersionInfo) -> None:
    wanted: Filter = {"stock": list(range(3, 3 + MAX_FILTER_VALUES - 1)), "genres": "drama"}
    assert found(store, filled, wanted) == [item for item in range(NUM_ITEMS) if agrees(wanted, item)]
    long = "x" * (MAX_FILTER_BYTES // MAX_FILTER_VALUES - 4)
    assert found(store, filled, {"title": [f"{long}{i}" for i in range(MAX_FILTER_VALUES)]}) == []


def test_a_missing_value_in_a_column_that_has_all_is_refused(store: VectorStore, filled: VersionInfo) -> None:
    rows = ItemRows(ITEMS.keys[:1], ITEMS.vectors[:1], {**{name: v[:1] for name, v in VALUES.items()}, "stock": [None]})
    with pytest.raises(VectorStoreError, match="column stock is not nullable"):
        store.upsert_items(filled.model_version, rows)


def test_a_version_published_before_missing_values_were_marked_stays_readable(store: VectorStore) -> None:
    columns = tuple(dataclasses.replace(column, nullable=False) for column in COLUMNS)
    written = make_info(columns=columns, marks_missing=False).to_json()
    del written["marks_missing"]
    for column in written["columns"]:
        del column["nullable"]
    info = VersionInfo.from_json(written)
    assert not info.marks_missing
    store.create_version(info)
    first = {name: [POOLS[name][0]] * 2 if name != "genres" else [["drama"], []] for name in VALUES}
    store.upsert_items(info.model_version, ItemRows(ITEMS.keys[:2], ITEMS.vectors[:2], first))
    assert store.count_items(info.model_version) == 2
    assert found(store, info, {"price": 0, "title": {"not_in": ["a"]}, "genres": {"null": True}}) == [1]
    [hits] = store.search_items(info.model_version, QUERY, 5, columns=["price", "title"])
    assert (hits.columns["price"], hits.columns["title"]) == ([0.0, 0.0], ["", ""])
    for operator, operand in (("lt", 20), ("null", True)):
        with pytest.raises(InvalidRequest, match=rf"price.{operator}: version {info.model_version} was published befo"):
            found(store, info, {"price": {operator: operand}})
    store.drop_version(info.model_version)
