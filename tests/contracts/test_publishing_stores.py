"""What publishing asks of every store: a lock, items that a failed try has left, versions out of memory and back."""

from __future__ import annotations

import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mind_dist.errors import VectorStoreError
from mind_dist.index.vector_store import Column, ItemRows, UserRow, VectorStore, VersionInfo

DIM, KEYS = 4, np.arange(-20, 40, dtype=np.int64)
_numbers = itertools.count()


def make_info(**changes: Any) -> VersionInfo:
    name = f"v{next(_numbers):08d}_p{os.getpid():x}"
    info = VersionInfo(name, DIM, 2, "cosine", "uri", max_behaviors=3, columns=(Column("x", "real"),), num_items=60)
    return dataclasses.replace(info, **changes)


def make_items(keys: Any) -> ItemRows:
    vectors = np.random.default_rng(0).normal(size=(len(KEYS), DIM)).astype(np.float32)
    rows = np.searchsorted(KEYS, keys)
    return ItemRows(keys, vectors[rows], {"x": [float(row) for row in rows]})


def make_user(user_key: int) -> UserRow:
    return UserRow(user_key, np.ones((1, DIM), np.float32), np.ones(1, np.float32))


def published(store: VectorStore, **changes: Any) -> VersionInfo:
    info = make_info(**changes)
    store.create_version(info)
    store.upsert_items(info.model_version, make_items(KEYS[:30]))
    store.upsert_users(info.model_version, [make_user(1)])
    return info


def test_items_of_a_range_of_keys_are_counted(store: VectorStore) -> None:
    version = published(store).model_version
    assert store.count_items(version) == 30
    for first, last, expected in ((-20, 9, 30), (-20, -20, 1), (5, 39, 5), (10, 39, 0)):
        assert store.count_items(version, between=(first, last)) == expected


def test_a_try_after_one_that_failed_finds_its_items_and_none_of_its_users(store: VectorStore) -> None:
    info = published(store)
    store.drop_version(info.model_version, keep_items=True)
    assert info.model_version not in {each.model_version for each in store.versions()}
    later = dataclasses.replace(info, published_ms=7)
    assert store.renew_version(later)
    assert store.version_info(info.model_version) == later
    assert (store.count_items(info.model_version), store.count_users(info.model_version)) == (30, 0)
    store.upsert_items(info.model_version, make_items(KEYS[30:]))
    assert store.count_items(info.model_version) == 60
    [hits] = store.search_items(info.model_version, make_items(KEYS[3:4]).vectors, 60, columns=["x"])
    assert sorted(hits.columns["x"]) == list(range(60))


def test_a_try_after_one_that_was_killed_does_as_well(store: VectorStore) -> None:
    info = published(store)
    assert store.renew_version(info)
    assert (store.count_items(info.model_version), store.count_users(info.model_version)) == (30, 0)


def test_items_laid_out_otherwise_and_those_of_other_versions_are_not_gone_on_with(store: VectorStore) -> None:
    info, other = published(store), published(store)
    for version in (info, other):
        store.drop_version(version.model_version, keep_items=True)
    assert not store.renew_version(dataclasses.replace(info, columns=(Column("y"),)))
    assert store.count_items(info.model_version) == 0
    assert not store.renew_version(other)


def test_a_version_with_readers_is_not_renewed(store: VectorStore) -> None:
    info = published(store)
    store.activate(info.model_version)
    with pytest.raises(VectorStoreError, match="active or staged"):
        store.renew_version(info)
    assert store.count_users(info.model_version) == 1
    store.activate(published(store).model_version)


def test_a_released_version_is_read_again_after_it_was_loaded_or_asked_for(store: VectorStore) -> None:
    version = published(store).model_version
    for loads in (True, False):
        assert not store.is_released(version)
        store.release_version(version)
        assert store.is_released(version)
        if loads:
            store.load_version(version)
            assert not store.is_released(version)
        assert [len(hits.keys) for hits in store.search_items(version, make_items(KEYS[:1]).vectors, 5)] == [5]
        assert store.get_users(version, [1], strong=True).keys() == {1}
        store.load_version(version)
    store.release_version(version)
    store.drop_version(version)


def test_one_of_many_has_the_lock_and_shows_that_it_lives(store: VectorStore) -> None:
    lock, holders = store.publish_lock(), [f"holder {number} é" for number in range(6)]
    assert lock.state() is None
    assert not lock.beat(holders[0])
    with ThreadPoolExecutor(6) as threads:
        took = list(threads.map(lock.create, holders))
    assert took.count(True) == 1
    owner, other = holders[took.index(True)], holders[took.index(False)]
    assert lock.state() == (owner, 0)
    assert not lock.create(other)
    assert lock.create(owner)
    for beats in (1, 2, 3):
        assert lock.beat(owner)
        assert not lock.beat(other)
        assert lock.state() == (owner, beats)
    lock.remove(other)
    assert lock.state() == (owner, 3)
    lock.remove(owner)
    assert lock.state() is None
    assert lock.create(other)
    lock.remove(other)
