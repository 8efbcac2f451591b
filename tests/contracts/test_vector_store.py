"""What every vector store promises, over the in-memory one, Milvus Lite and Milvus standalone.

Making a version takes seconds on Milvus standalone, so tests share two where they can, with users of their own.
"""

import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient

from mind_dist import local_stack
from mind_dist.config import MilvusConfig
from mind_dist.errors import InvalidRequest, ServiceUnavailable, VectorStoreError
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import MAX_LIMIT, Column, Filter, Hits, ItemRows, UserRow, VectorStore, VersionInfo
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.local_process import free_ports, listeners
from mind_dist.records import Keys

DIM, NUM_INTERESTS, NUM_ITEMS = 8, 3, 1200
COLUMNS = (Column("title"), Column("year", "integer"), Column("price", "real"), Column("genres", "texts"))
HOSTILE = [
    *('"', "\\", "'", '" or year > 0 or title == "', "\n\t\r", "a\\", "é", "😀", "\u2028", "\x7f", "%", "{x}", ""),
    *("\\u0041", "//", "title", "\\n", "a b", "[", "]", "$", "drama"),
]
GENRES = ["drama", "war", "comedy", *HOSTILE[:6]]
KEYS = np.array([FIRST_KEY, *range(-5, NUM_ITEMS - 7), 2**63 - 1], dtype=np.int64)
_numbers = itertools.count()


def make_info(**changes: Any) -> VersionInfo:
    name = f"v{next(_numbers):08d}_{os.getpid():x}"
    info = VersionInfo(
        name,
        DIM,
        NUM_INTERESTS,
        "inner_product",
        "s3://bucket/é",
        max_behaviors=20,
        id_type="string",
        step=7,
        watermark_ms=123,
        metrics={"recall@50": 0.125},
        columns=COLUMNS,
        published_ms=99,
    )
    return dataclasses.replace(info, **changes)


def make_items() -> ItemRows:
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "title": [HOSTILE[i % len(HOSTILE)] for i in range(NUM_ITEMS)],
        "year": [1990 + i % 7 for i in range(NUM_ITEMS)],
        "price": [(0.5, 1e-7, -3.0)[i % 3] for i in range(NUM_ITEMS)],
        "genres": [GENRES[i % 4 : i % 11] for i in range(NUM_ITEMS)],
    }
    return ItemRows(KEYS, rng.normal(size=(NUM_ITEMS, DIM)).astype(np.float32), columns)


ITEMS = make_items()


def make_user(user_key: int, *, num_interests: int = NUM_INTERESTS, length: int = 5, state_offset: int = 0) -> UserRow:
    rng = np.random.default_rng(abs(user_key))
    return UserRow(
        user_key,
        rng.normal(size=(num_interests, DIM)).astype(np.float32),
        np.full(num_interests, 0.25, dtype=np.float32),
        rng.integers(-(2**62), 2**62, length),
        np.arange(length, dtype=np.int64),
        np.array([0, -7], dtype=np.int64),
        partition=3,
        state_offset=state_offset,
        updated_ms=1_700_000_000_000,
    )


def assert_same_row(found: UserRow, wanted: UserRow, model_version: str) -> None:
    for one, other in zip(
        dataclasses.astuple(found),
        dataclasses.astuple(dataclasses.replace(wanted, model_version=model_version)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert found.interests.dtype == found.weights.dtype == np.float32
    assert found.behaviors.dtype == found.timestamps_ms.dtype == np.int64


SERVERS = ["milvus_lite", "milvus_standalone"]


@pytest.fixture(scope="module")
def filled(store: VectorStore) -> VersionInfo:
    info = make_info(step=1)
    store.create_version(info)
    store.upsert_items(info.model_version, ITEMS)
    store.settle_items(info.model_version)
    assert store.count_items(info.model_version) == NUM_ITEMS
    return info


@pytest.fixture(scope="module")
def other(store: VectorStore) -> VersionInfo:
    info = make_info(step=2)
    store.create_version(info)
    return info


# Items


def exact(queries: Any, limit: int, allowed: Sequence[bool] | None = None) -> list[tuple[Keys, Any]]:
    """Return keys and scores of the best items by a plain sort."""
    kept = np.flatnonzero(np.ones(NUM_ITEMS) if allowed is None else allowed)
    found = []
    for query in queries:
        ranked = sorted((-float(np.dot(ITEMS.vectors[i], query)), int(KEYS[i])) for i in kept)[:limit]
        found.append((np.array([key for _, key in ranked]), np.array([-score for score, _ in ranked])))
    return found


def assert_finds(hits: Sequence[Hits], wanted: list[tuple[Keys, Any]]) -> None:
    for found, (keys, scores) in zip(hits, wanted, strict=True):
        np.testing.assert_array_equal(found.keys, keys)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)


def random_queries(count: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def test_search_equals_brute_force(store: VectorStore, filled: VersionInfo) -> None:
    queries = random_queries(4)
    assert_finds(store.search_items(filled.model_version, queries, 50), exact(queries, 50))


def test_search_with_more_queries_than_one_request_takes_answers_each(store: VectorStore, filled: VersionInfo) -> None:
    queries = random_queries(300)
    hits = store.search_items(filled.model_version, queries, 3)
    assert len(hits) == 300
    assert_finds([hits[0], *hits[255:258], hits[-1]], exact([queries[0], *queries[255:258], queries[-1]], 3))
    assert list(store.search_items(filled.model_version, queries[:0], 3)) == []


def test_search_for_more_than_there_is_returns_all(store: VectorStore, filled: VersionInfo) -> None:
    [hits] = store.search_items(filled.model_version, random_queries(1), MAX_LIMIT)
    assert sorted(hits.keys.tolist()) == KEYS.tolist()


def test_search_returns_the_columns_asked_for(store: VectorStore, filled: VersionInfo) -> None:
    names = [column.name for column in COLUMNS]
    [hits] = store.search_items(filled.model_version, random_queries(1), 40, columns=names)
    rows = np.searchsorted(KEYS, hits.keys)
    for name in names:
        assert list(hits.columns[name]) == [ITEMS.columns[name][row] for row in rows]


FILTERS: list[Filter] = [
    {"year": 1993},
    {"year": [1990, 1992]},
    {"price": 1e-7},
    {"price": [-3, 0.5]},
    {"title": HOSTILE[1:4]},
    {"genres": "war"},
    {"genres": ["comedy", HOSTILE[0], HOSTILE[3]]},
    {"genres": "drama", "year": [1991, 1995], "title": HOSTILE},
    {"title": "no such title"},
    *({"title": text} for text in HOSTILE),
]


@pytest.mark.parametrize("filter", FILTERS, ids=repr)
def test_filtered_search_equals_brute_force(store: VectorStore, filled: VersionInfo, filter: Filter) -> None:
    queries = random_queries(2)
    hits = store.search_items(filled.model_version, queries, 30, filter=filter)
    assert_finds(hits, exact(queries, 30, [agrees(filter, i) for i in range(NUM_ITEMS)]))


def agrees(filter: Filter, item: int) -> bool:
    def has(name: str, wanted: Any) -> bool:
        any_of = wanted if isinstance(wanted, list) else [wanted]
        value = ITEMS.columns[name][item]
        return bool(set(value) & set(any_of)) if name == "genres" else value in any_of

    return all(has(name, wanted) for name, wanted in filter.items())


@pytest.mark.parametrize(
    "filter",
    [
        {"nope": 1},
        {"item_id": 1},
        {"vector": 1},
        {"year > 0 or year": 1},
        {"year": "1990"},
        {"year": True},
        {"year": 1990.5},
        {"year": 2**63},
        {"year": []},
        {"price": float("nan")},
        {"title": 5},
        {"title": "bell\x07"},
        {"title": "\ud800"},
        {"genres": [["drama"]]},
    ],
    ids=repr,
)
def test_a_bad_filter_is_an_invalid_request(store: VectorStore, filled: VersionInfo, filter: Filter) -> None:
    with pytest.raises(InvalidRequest):
        store.search_items(filled.model_version, random_queries(1), 5, filter=filter)


@pytest.mark.parametrize("limit", [-1, 0, MAX_LIMIT + 1])
def test_a_limit_out_of_range_is_an_invalid_request(store: VectorStore, filled: VersionInfo, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        store.search_items(filled.model_version, random_queries(1), limit)


def test_a_bad_query_or_column_is_an_invalid_request(store: VectorStore, filled: VersionInfo) -> None:
    for query in (
        np.full((1, DIM), np.nan, np.float32),
        np.full((1, DIM), np.inf, np.float32),
        np.zeros((1, 5), np.float32),
    ):
        with pytest.raises(InvalidRequest):
            store.search_items(filled.model_version, query, 5)
    with pytest.raises(InvalidRequest, match="nope"):
        store.search_items(filled.model_version, random_queries(1), 5, columns=["nope"])


def test_items_are_replaced_by_key(store: VectorStore, other: VersionInfo) -> None:
    first = ItemRows(KEYS[:10], ITEMS.vectors[:10], {name: values[:10] for name, values in ITEMS.columns.items()})
    changed = dataclasses.replace(first, vectors=first.vectors + 100, columns={**first.columns, "year": [5] * 10})
    store.upsert_items(other.model_version, first)
    store.upsert_items(other.model_version, changed)
    assert store.count_items(other.model_version) == 10
    [hits] = store.search_items(other.model_version, np.ones((1, DIM), np.float32), 20, filter={"year": 5})
    assert sorted(hits.keys.tolist()) == KEYS[:10].tolist()
    assert hits.scores.min() > 700


def test_bad_items_are_refused(store: VectorStore, other: VersionInfo) -> None:
    def write(vectors: Any, columns: Any) -> None:
        store.upsert_items(other.model_version, ItemRows(KEYS[:2], vectors, columns))

    columns = {name: values[:2] for name, values in ITEMS.columns.items()}
    not_finite = ITEMS.vectors[:2].copy()
    not_finite[1, 3] = np.nan
    for vectors, problem in ((not_finite, "item -5 is not finite"), (ITEMS.vectors[:2, :4], "must be")):
        with pytest.raises(VectorStoreError, match=problem):
            write(vectors, columns)
    with pytest.raises(VectorStoreError, match="columns"):
        write(ITEMS.vectors[:2], {"year": [1, 2]})


# Users


def test_a_user_comes_back_as_written(store: VectorStore, filled: VersionInfo) -> None:
    users = [
        make_user(FIRST_KEY),
        make_user(LAST_KEY, num_interests=1, length=20),
        make_user(10, num_interests=0, length=0),
        dataclasses.replace(make_user(11, num_interests=2), profile=np.empty(0, np.int64)),
    ]
    store.upsert_users(filled.model_version, users)
    found = store.get_users(filled.model_version, [user.user_key for user in users] + [12], strong=True)
    assert set(found) == {user.user_key for user in users}
    for user in users:
        assert_same_row(found[user.user_key], user, filled.model_version)


def test_a_user_comes_back_with_the_features_of_each_behavior(store: VectorStore) -> None:
    info = make_info(behavior_features=("event_type", "device"))
    store.create_version(info)
    keys = np.array([[-(2**62), 0], [7, 2**62], [0, 0]])
    one = dataclasses.replace(make_user(1, length=3), behavior_keys=keys)
    nothing = make_user(2, num_interests=0, length=0)
    store.upsert_users(info.model_version, [one, nothing])
    found = store.get_users(info.model_version, [1, 2], strong=True)
    assert_same_row(found[1], one, info.model_version)
    assert found[2].behavior_keys.size == 0
    assert store.version_info(info.model_version).behavior_features == info.behavior_features
    for wrong in (keys[:2], keys[:, :1], keys[:0]):
        with pytest.raises(VectorStoreError, match=r"user 1: behavior keys of shape"):
            store.upsert_users(info.model_version, [dataclasses.replace(one, behavior_keys=wrong)])


def test_what_a_search_needs_of_a_user_is_read_alone(store: VectorStore, filled: VersionInfo) -> None:
    users = [make_user(key, num_interests=key - 700) for key in range(701, 704)]
    store.upsert_users(filled.model_version, users)
    store.get_users(filled.model_version, [701], strong=True)
    give_up = time.monotonic() + 10
    while len(found := store.get_interests(filled.model_version, [*range(701, 704), 799])) < 3:
        assert time.monotonic() < give_up, "bounded reads are some seconds old at most"
    assert found.keys() == {701, 702, 703}
    for user in users:
        row = found[user.user_key]
        assert (row.user_key, row.model_version) == (user.user_key, filled.model_version)
        for name in ("interests", "weights", "behaviors"):
            np.testing.assert_array_equal(getattr(row, name), getattr(user, name))


def test_a_strong_read_sees_every_acknowledged_write(store: VectorStore, filled: VersionInfo) -> None:
    for offset in range(5):
        store.upsert_users(filled.model_version, [make_user(20, state_offset=offset)])
        assert store.get_users(filled.model_version, [20], strong=True)[20].state_offset == offset


def test_a_weak_read_sees_old_writes(store: VectorStore, filled: VersionInfo) -> None:
    store.upsert_users(filled.model_version, [make_user(30, state_offset=4)])
    store.get_users(filled.model_version, [30], strong=True)
    assert store.get_users(filled.model_version, [30, 31], strong=False)[30].state_offset == 4


def test_a_row_replaces_all_of_the_old_one(store: VectorStore, filled: VersionInfo) -> None:
    store.upsert_users(filled.model_version, [make_user(40, length=20)])
    shorter = make_user(40, num_interests=1, length=1, state_offset=9)
    store.upsert_users(filled.model_version, [shorter])
    assert_same_row(store.get_users(filled.model_version, [40], strong=True)[40], shorter, filled.model_version)


def test_users_near_a_vector_equal_brute_force(store: VectorStore) -> None:
    info = make_info()
    store.create_version(info)
    users = [make_user(key, num_interests=1 + key % NUM_INTERESTS) for key in range(1, 60)]
    store.upsert_users(info.model_version, users)
    store.get_users(info.model_version, [1], strong=True)  # bounded reads see the rows from here on
    [vector] = random_queries(1)
    padded = np.zeros((len(users), NUM_INTERESTS, DIM), dtype=np.float32)
    for row, user in zip(padded, users, strict=True):
        row[: len(user.interests)] = user.interests
    scores = (padded @ vector).T

    def find() -> Sequence[Hits]:
        return store.search_users(info.model_version, vector, 10)

    give_up = time.monotonic() + 10
    while sum(len(hits.keys) for hits in find()) < 30 and time.monotonic() < give_up:
        time.sleep(0.1)
    for hits, row in zip(find(), scores, strict=True):
        np.testing.assert_allclose(hits.scores, np.sort(row)[::-1][:10], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(hits.scores, row[hits.keys - 1], rtol=1e-5, atol=1e-6)
    everybody = store.search_users(info.model_version, vector, 1000)
    assert all(sorted(hits.keys) == list(range(1, 60)) for hits in everybody), "and nobody else: no version's marker"
    with pytest.raises(InvalidRequest):
        store.search_users(info.model_version, vector[:-1], 10)
    with pytest.raises(InvalidRequest):
        store.search_users(info.model_version, vector * np.nan, 10)


def test_a_deleted_user_is_gone(store: VectorStore, filled: VersionInfo) -> None:
    store.upsert_users(filled.model_version, [make_user(80), make_user(81)])
    store.delete_users(filled.model_version, [80, 82])
    assert set(store.get_users(filled.model_version, [80, 81, 82], strong=True)) == {81}


def test_count_and_scan_have_every_user_once(store: VectorStore, other: VersionInfo) -> None:
    keys = [FIRST_KEY, *range(-1200, 1200), LAST_KEY]
    store.upsert_users(other.model_version, [make_user(key, length=2) for key in reversed(keys)])
    store.upsert_users(other.model_version, [make_user(key, length=3) for key in range(100)])
    assert store.count_users(other.model_version) == len(keys)
    rows = list(store.scan_users(other.model_version))
    assert [row.user_key for row in rows] == keys
    assert [len(row.behaviors) for row in rows if 0 <= row.user_key < 101] == [3] * 100 + [2]


def test_bad_users_are_refused(store: VectorStore, filled: VersionInfo) -> None:
    good = make_user(90)
    nan = good.interests.copy()
    nan[0, 0] = np.nan
    for change, problem in (
        ({"interests": nan}, "finite"),
        ({"interests": good.interests[:, :4]}, "must be"),
        ({"interests": np.zeros((4, DIM), np.float32), "weights": np.zeros(4, np.float32)}, "at most 3"),
        ({"weights": good.weights[:1]}, "1 weights for 3"),
        ({"behaviors": np.zeros(21, np.int64), "timestamps_ms": np.zeros(21, np.int64)}, "at most 20"),
        ({"timestamps_ms": np.zeros(2, np.int64)}, "5 behaviors with 2 times"),
        ({"profile": np.zeros(65, np.int64)}, "at most 64"),
        ({"user_key": FIRST_KEY - 1}, "keys are between"),
        ({"user_key": LAST_KEY + 1}, "keys are between"),
    ):
        with pytest.raises(VectorStoreError, match=problem):
            store.upsert_users(filled.model_version, [dataclasses.replace(good, **change)])
    assert store.get_users(filled.model_version, [90], strong=True) == {}


# Versions


def test_what_a_version_is_comes_back(store: VectorStore, filled: VersionInfo, other: VersionInfo) -> None:
    ours = [info for info in store.versions() if info in (filled, other)]
    assert ours == [filled, other]


def test_creating_a_version_again_changes_nothing(store: VectorStore, filled: VersionInfo) -> None:
    store.upsert_users(filled.model_version, [make_user(95)])
    store.create_version(filled)
    assert set(store.get_users(filled.model_version, [95], strong=True)) == {95}
    assert store.count_items(filled.model_version) == NUM_ITEMS


def test_readers_are_switched(store: VectorStore, filled: VersionInfo, other: VersionInfo) -> None:
    for info in (filled, other, filled, filled):
        store.activate(info.model_version)
        assert store.active_version() == info.model_version


def test_a_staged_version_is_named_until_it_is_active(
    store: VectorStore, filled: VersionInfo, other: VersionInfo
) -> None:
    store.activate(filled.model_version)
    store.stage(other.model_version)
    assert (store.active_version(), store.staged_version()) == (filled.model_version, other.model_version)
    store.activate(other.model_version)
    assert (store.active_version(), store.staged_version()) == (other.model_version, None)
    store.stage(filled.model_version)
    store.stage(None)
    store.stage(None)
    assert store.staged_version() is None


def test_only_a_version_without_readers_is_dropped(store: VectorStore, filled: VersionInfo) -> None:
    short_lived = make_info(columns=())
    name = short_lived.model_version
    store.create_version(short_lived)
    store.stage(name)
    with pytest.raises(VectorStoreError, match="staged"):
        store.drop_version(name)
    store.activate(name)
    with pytest.raises(VectorStoreError, match="active"):
        store.drop_version(name)
    store.activate(filled.model_version)
    store.drop_version(name)
    store.drop_version(name)
    assert name not in {info.model_version for info in store.versions()}
    assert store.active_version() == filled.model_version


def test_an_unknown_version_is_refused_at_once(store: VectorStore) -> None:
    started = time.monotonic()
    for call in (
        lambda: store.get_users("v_none", [1], strong=True),
        lambda: store.search_items("v_none", random_queries(1), 5),
        lambda: store.activate("v_none"),
        lambda: store.stage("v_none"),
        lambda: store.count_items("v_none"),
    ):
        with pytest.raises(VectorStoreError):
            call()
    assert time.monotonic() - started < 5


# Servers that are away


def test_rows_outlive_a_killed_server(tmp_path: Path) -> None:
    with local_stack.milvus_lite(tmp_path) as server:
        store = MilvusVectorStore(server.address, MilvusConfig(retry_s=30))
        info = make_info()
        assert store.active_version() is None
        store.create_version(info)
        store.upsert_items(info.model_version, ITEMS)
        store.upsert_users(info.model_version, [make_user(1), make_user(2)])
        store.activate(info.model_version)
        for pid in listeners(server.port):
            os.kill(pid, signal.SIGKILL)
        server.stop()
        server.start()
        assert store.active_version() == info.model_version
        assert store.count_items(info.model_version) == NUM_ITEMS
        store.upsert_users(info.model_version, [make_user(2, state_offset=5), make_user(3)])
        found = store.get_users(info.model_version, [1, 2, 3], strong=True)
        assert [found[key].state_offset for key in (1, 2, 3)] == [0, 5, 0]
        assert list(store.versions()) == [info]
        store.close()


def test_a_frozen_server_is_unavailable_within_the_bound(tmp_path: Path) -> None:
    with local_stack.milvus_lite(tmp_path) as server:
        store = MilvusVectorStore(server.address, MilvusConfig(timeout_s=1, retry_s=1))
        [pid] = listeners(server.port)
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            store.active_version()
        assert time.monotonic() - started < 10
        os.kill(pid, signal.SIGCONT)
        assert store.active_version() is None
        store.close()


@pytest.mark.parametrize("server", SERVERS)
def test_an_alias_whose_collection_somebody_dropped_can_be_set_again(
    request: pytest.FixtureRequest, server: str
) -> None:
    uri = request.getfixturevalue(server)
    store, client = MilvusVectorStore(uri, MilvusConfig(timeout_s=20, retry_s=60)), MilvusClient(uri)
    lost, kept = make_info(columns=()), make_info(columns=())
    for info in (lost, kept):
        store.create_version(info)
    store.stage(lost.model_version)
    client.drop_collection(f"users__{lost.model_version}")
    assert store.staged_version() is None
    store.stage(kept.model_version)
    assert store.staged_version() == kept.model_version
    store.stage(None)
    for info in (lost, kept):
        store.drop_version(info.model_version)
    client.close()
    store.close()


def test_a_finished_hnsw_index_finds_nearly_all_of_the_best_items(milvus_standalone: str) -> None:
    store = MilvusVectorStore(milvus_standalone, MilvusConfig(timeout_s=20, retry_s=60, flat_below=0))
    info = make_info(num_items=NUM_ITEMS)
    store.create_version(info)
    store.upsert_items(info.model_version, ITEMS)
    store.settle_items(info.model_version)
    queries = random_queries(20)
    hits = store.search_items(info.model_version, queries, 50)
    shares = [np.isin(keys, found.keys).mean() for found, (keys, _) in zip(hits, exact(queries, 50), strict=True)]
    assert np.mean(shares) > 0.98
    store.drop_version(info.model_version)
    store.close()


def test_an_index_that_is_never_finished_is_an_error(milvus_standalone: str) -> None:
    config = MilvusConfig(timeout_s=20, retry_s=60, flat_below=0, settle_s=0.1)
    store = MilvusVectorStore(milvus_standalone, config)
    info = make_info(num_items=NUM_ITEMS)
    store.create_version(info)
    store.upsert_items(info.model_version, ITEMS)
    with pytest.raises(VectorStoreError, match=f"0 of {NUM_ITEMS} items .*settle_s"):
        store.settle_items(info.model_version)
    store.drop_version(info.model_version)
    store.close()


def test_an_absent_server_is_named_after_pauses_that_differ() -> None:
    [port] = free_ports(1)
    pauses: list[float] = []
    with pytest.raises(ServiceUnavailable, match=f"Milvus at http://127.0.0.1:{port} did not answer"):
        MilvusVectorStore(f"http://127.0.0.1:{port}", MilvusConfig(timeout_s=0.1, retry_s=0.6), sleep=pauses.append)
    assert len(set(pauses)) == len(pauses) > 0
    assert all(0 < pause <= 2 for pause in pauses)
