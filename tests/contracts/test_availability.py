"""Retrieval among what is available, over the in-memory store, Milvus Lite and Milvus standalone."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, AVAILABLE_FROM, AVAILABLE_UNTIL
from mind_dist.errors import VectorStoreError
from mind_dist.index.vector_store import Column, Filter, ItemRows, VectorStore, VersionInfo
from mind_dist.retrieval import retrieve

DIM, NUM_ITEMS, HOUR_MS = 8, 400, 3_600_000
NOW_MS = time.time_ns() // 1_000_000
COLUMNS = (Column(AVAILABLE_FROM, "integer"), Column(AVAILABLE_UNTIL, "integer"), Column("genre"))
KEYS = np.arange(NUM_ITEMS)
VECTORS = np.random.default_rng(3).normal(size=(NUM_ITEMS, DIM)).astype(np.float32)
FROM_MS = NOW_MS + (KEYS % 40 - 30) * HOUR_MS
UNTIL_MS = np.where(KEYS % 7 == 0, AVAILABILITY_LIMITS[AVAILABLE_UNTIL], FROM_MS + 8 * HOUR_MS)
FROM_MS[KEYS % 11 == 0] = AVAILABILITY_LIMITS[AVAILABLE_FROM]
GENRES = np.array(["a", "b", "c"])[KEYS % 3]
INTERESTS = np.random.default_rng(4).normal(size=(3, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def filled(store: VectorStore) -> VersionInfo:
    info = VersionInfo(
        f"v00000001_{os.getpid():x}a", DIM, 3, "inner_product", "", 5, columns=COLUMNS, num_items=NUM_ITEMS
    )
    store.create_version(info)
    columns = {AVAILABLE_FROM: FROM_MS.tolist(), AVAILABLE_UNTIL: UNTIL_MS.tolist(), "genre": GENRES.tolist()}
    store.upsert_items(info.model_version, ItemRows(KEYS, VECTORS, columns))
    store.settle_items(info.model_version)
    assert store.count_items(info.model_version) == NUM_ITEMS
    return info


def best(allowed: np.ndarray[tuple[int], np.dtype[np.bool_]], limit: int) -> list[int]:
    scores = np.where(allowed, (INTERESTS @ VECTORS.T).max(axis=0), -np.inf)
    return [int(item) for item in np.argsort(-scores, kind="stable")[:limit] if allowed[item]]


def test_a_version_tells_what_it_is(store: VectorStore, filled: VersionInfo) -> None:
    assert store.version_info(filled.model_version) == filled
    with pytest.raises(VectorStoreError):
        store.version_info("v00000009_nothere")


@pytest.mark.parametrize("hours", [0, -25, 12])
@pytest.mark.parametrize("genre", [None, "b"])
def test_what_is_available_at_a_moment_is_found_and_nothing_else(
    store: VectorStore, filled: VersionInfo, hours: int, genre: str | None
) -> None:
    moment = NOW_MS + hours * HOUR_MS
    allowed = (moment >= FROM_MS) & (moment < UNTIL_MS) & (True if genre is None else genre == GENRES)
    filter: Filter | None = None if genre is None else {"genre": genre}  # noqa: A001 - its name
    found = retrieve(store, filled.model_version, INTERESTS, 60, at_ms=moment, filter=filter)
    assert [candidate.item_key for candidate in found] == best(allowed, 60)


def test_now_is_what_is_meant_unless_everything_is_asked_for(store: VectorStore, filled: VersionInfo) -> None:
    found = retrieve(store, filled.model_version, INTERESTS, NUM_ITEMS)
    now = (FROM_MS <= NOW_MS) & (NOW_MS < UNTIL_MS)  # no item comes or goes within the hour of this test
    assert sorted(candidate.item_key for candidate in found) == np.flatnonzero(now).tolist()
    everything = retrieve(store, filled.model_version, INTERESTS, NUM_ITEMS, available_only=False)
    assert len(everything) == NUM_ITEMS
