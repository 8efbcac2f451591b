"""Deployments of several names on one Milvus: none sees or moves what another one has."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
import pytest
from pymilvus import MilvusClient

from mind_dist.config import MilvusConfig
from mind_dist.errors import VectorStoreError
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import Column, ItemRows, UserRow, VersionInfo

NAMES = ("", "shop", "shop_eu", "shop_e", "users_next", "Shop")
DIM = 4
_numbers = itertools.count()

Stores = dict[str, MilvusVectorStore]


@pytest.fixture(scope="module", params=["milvus_lite", "milvus_standalone"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def stores(server: str) -> Iterator[Stores]:
    config = MilvusConfig(timeout_s=20, retry_s=60)
    with ExitStack() as open_stores:
        yield {
            name: open_stores.enter_context(closing(MilvusVectorStore(server, config, deployment=name)))
            for name in NAMES
        }


def make_info(step: int, id_type: str = "int64") -> VersionInfo:
    name = f"v{next(_numbers):08d}_deployed_{os.getpid():x}"
    return VersionInfo(name, DIM, 1, "cosine", "file:///v", 5, id_type, step, columns=(Column("genre"),))


def fill(store: MilvusVectorStore, info: VersionInfo, keys: Sequence[int]) -> None:
    store.create_version(info)
    vectors = np.ones((len(keys), DIM), np.float32)
    store.upsert_items(info.model_version, ItemRows(np.array(keys), vectors, {"genre": ["war"] * len(keys)}))
    store.upsert_users(info.model_version, [UserRow(key, vectors[:1], np.ones(1, np.float32)) for key in keys])


def test_a_deployment_sees_and_moves_its_own_versions_alone(server: str, stores: Stores) -> None:
    """The same version name in each, as when one directory is published twice."""
    first, second = make_info(1), make_info(2)
    for at, store in enumerate(stores.values()):
        for info in (first, second):
            fill(store, info, range(10 * at, 10 * at + 3))
        store.activate(first.model_version)
    moved = stores["shop"]
    moved.stage(second.model_version)
    moved.activate(second.model_version)
    moved.delete_users(second.model_version, [10])
    for at, (name, store) in enumerate(stores.items()):
        versions = store.versions()
        assert [info for info in versions if info in (first, second)] == [first, second]
        assert name == "" or len(versions) == 2  # other tests' versions have no deployment
        assert not any("__" in info.model_version for info in versions)
        assert store.active_version() == (second if name == "shop" else first).model_version
        assert store.staged_version() is None
        assert store.count_users(second.model_version) == (2 if name == "shop" else 3)
        assert [row.user_key for row in store.scan_users(first.model_version)] == [10 * at, 10 * at + 1, 10 * at + 2]
        [hits] = store.search_items(first.model_version, np.ones((1, DIM), np.float32), 100, filter={"genre": "war"})
        assert sorted(hits.keys.tolist()) == [10 * at, 10 * at + 1, 10 * at + 2]
    moved.drop_version(first.model_version)
    with pytest.raises(VectorStoreError):
        moved.count_items(first.model_version)
    assert all(store.count_items(first.model_version) == 3 for name, store in stores.items() if name != "shop")
    with closing(MilvusClient(server, timeout=20)) as client:
        assert f"shop_eu__items__{first.model_version}" in client.list_collections()
        [row] = client.get("shop_eu__users", ids=[20], output_fields=["model_version"])
        assert row["model_version"] == first.model_version
        rows = client.get("users", ids=[20], output_fields=["model_version"])
        assert list(rows) == []


def test_deployments_with_ids_of_different_types_share_a_server(stores: Stores) -> None:
    numbers, texts = make_info(1, "int64"), make_info(1, "string")
    fill(stores[""], numbers, [1, 2])
    fill(stores["shop"], texts, [-(2**60), 2**60])
    assert numbers in stores[""].versions()
    assert texts not in stores[""].versions()
    assert texts in stores["shop"].versions()
    assert numbers not in stores["shop"].versions()
    with pytest.raises(VectorStoreError):
        stores["shop"].activate(numbers.model_version)
    with pytest.raises(VectorStoreError):
        stores[""].stage(texts.model_version)
