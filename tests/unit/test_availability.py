"""Retrieval among what is available: now, at another moment, or everything."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.errors import InvalidRequest
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import Column, ItemRows, VersionInfo
from mind_dist.retrieval import available_at, has_availability, retrieve

VERSION, NOW_MS, DAY_MS = "v1", time.time_ns() // 1_000_000, 86_400_000
NEVER_ENDS = 2**63 - 1
WINDOWS = {
    1: (0, NEVER_ENDS),
    2: (NOW_MS - DAY_MS, NOW_MS + DAY_MS),
    3: (NOW_MS + DAY_MS, NEVER_ENDS),
    4: (0, NOW_MS - DAY_MS),
}


def filled(columns: tuple[Column, ...], **values: Any) -> InMemoryVectorStore:
    store = InMemoryVectorStore()
    store.create_version(VersionInfo(VERSION, 2, 2, "inner_product", "", 5, columns=columns))
    keys = np.array(list(WINDOWS))
    vectors = np.array([[1, -key] for key in WINDOWS], np.float32)
    store.upsert_items(VERSION, ItemRows(keys, vectors, values))
    return store


@pytest.fixture(scope="module")
def store() -> InMemoryVectorStore:
    columns = (Column("available_from", "integer"), Column("available_until", "integer"), Column("genre"))
    start, stop = zip(*WINDOWS.values(), strict=True)
    return filled(columns, available_from=start, available_until=stop, genre=["a", "b", "a", "b"])


def found(store: InMemoryVectorStore, **settings: Any) -> list[int]:
    interests = np.array([[1, 0], [0, 1]], np.float32)
    return sorted(candidate.item_key for candidate in retrieve(store, VERSION, interests, 10, **settings))


def test_only_what_is_available_now_is_found_unless_asked_otherwise(store: InMemoryVectorStore) -> None:
    assert found(store) == [1, 2]
    assert found(store, available_only=False) == [1, 2, 3, 4]
    assert found(store, at_ms=NOW_MS + 2 * DAY_MS) == [1, 3]
    assert found(store, at_ms=NOW_MS - 2 * DAY_MS) == [1, 4]


def test_an_item_is_available_from_its_first_and_until_before_its_last_millisecond(store: InMemoryVectorStore) -> None:
    assert 2 in found(store, at_ms=NOW_MS - DAY_MS)
    assert 2 not in found(store, at_ms=NOW_MS - DAY_MS - 1)
    assert 2 in found(store, at_ms=NOW_MS + DAY_MS - 1)
    assert 2 not in found(store, at_ms=NOW_MS + DAY_MS)


def test_availability_and_a_filter_must_both_hold(store: InMemoryVectorStore) -> None:
    assert found(store, filter={"genre": "b"}) == [2]
    assert found(store, filter={"available_from": {"gt": 0}}) == [2]
    assert found(store, filter={"available_until": NEVER_ENDS}) == [1]
    assert found(store, filter={"available_until": {"lt": NEVER_ENDS}}, available_only=False) == [2, 4]
    with pytest.raises(InvalidRequest, match="unknown column 'year'"):
        found(store, filter={"year": 2})


@pytest.mark.parametrize("kind", ["text", "real"])
def test_columns_of_that_name_that_are_no_times_mean_nothing(kind: str) -> None:
    values: list[Any] = [""] * 4 if kind == "text" else [0.0] * 4
    store = filled((Column("available_until", kind),), available_until=values)
    assert not has_availability(store.version_info(VERSION))
    assert found(store) == [1, 2, 3, 4]
    assert found(filled(())) == [1, 2, 3, 4]


def test_versions_without_ranges_are_searched_as_before(store: InMemoryVectorStore) -> None:
    info = dataclasses.replace(store.version_info(VERSION), marks_missing=False)
    assert not has_availability(info)


bounds = st.integers(-5, 5)
wishes = st.dictionaries(st.sampled_from(["lt", "lte", "gt", "gte"]), bounds) | bounds | st.lists(bounds, min_size=1)


@given(moment_ms=bounds, wanted=wishes, bound=bounds)
def test_the_narrower_filter_lets_through_what_both_would(moment_ms: int, wanted: Any, bound: int) -> None:
    columns = (Column("available_from", "integer"), Column("available_until", "integer"))
    store = filled(columns, available_from=[bound] * 4, available_until=[bound + 3] * 4)
    filter = {name: wanted for name in ("available_from", "available_until") if wanted != {}}  # noqa: A001 - its name
    let_through = bool(found(store, filter=filter, available_only=False)) and bound <= moment_ms < bound + 3
    assert bool(found(store, filter=available_at(moment_ms, filter), available_only=False)) is let_through
