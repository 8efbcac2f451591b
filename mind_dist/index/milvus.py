"""The vector store in Milvus: Milvus Lite's server, Milvus standalone or a cluster, 2.3.5 and newer.

Writes name the concrete collection, for an upsert through an alias that has just moved can be lost. Every call is
bounded, and tried again while the server is away (`MilvusConnection`); upserts may be repeated without harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState, SegmentState
from pymilvus.exceptions import MilvusException

from mind_dist.config import Addresses, MilvusConfig
from mind_dist.errors import VectorStoreError
from mind_dist.index import milvus_schema as layout
from mind_dist.index.checks import check_items, check_search, check_users, slots
from mind_dist.index.filters import conditions
from mind_dist.index.milvus_connection import NO_COLLECTION, MilvusConnection
from mind_dist.index.milvus_lock import MilvusPublishLock
from mind_dist.index.milvus_packing import parts_of_users, upsert_users, user_columns
from mind_dist.index.vector_store import Filter, Hits, ItemRows, UserRow, Vectors, VersionInfo

_NO_ALIAS = (NO_COLLECTION, 1600)
_MAX_ROWS, _MAX_BYTES = 1000, 16_000_000  # a request may have 64 MB; what Python holds for it is several times that
_MAX_QUERIES = 256
_MAX_EF = 32_768
_FILTERED_EF = 4  # a filter hides most of what HNSW walks past, so let it look at more
_SETTLE_POLL_S = 0.5
_SMALLEST_INDEXED = 1024  # the server's indexCoord.segment.minSegmentNumRowsToEnableIndex
_NOBODY = f"user_id != {layout.MARKER_KEY}"


class MilvusVectorStore:
    """A `VectorStore` on Milvus; safe to share between threads.

    Args:
        uri: The server, such as `http://127.0.0.1:19530`.
        config: Bounds and index.
        token: user:password, or empty.
        deployment: Whose versions: nobody else's are seen; empty for those of no name.
        sleep: Waits between attempts.

    Raises:
        ServiceUnavailable: The server does not answer within `config.retry_s`.
    """

    def __init__(
        self,
        uri: str,
        config: MilvusConfig,
        token: str = "",
        *,
        deployment: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._names = layout.Names(deployment)
        self._sleep = sleep
        self._connection = MilvusConnection(uri, token, config.timeout_s, config.retry_s, sleep)
        self._call = self._connection.call
        self._infos: dict[str, VersionInfo] = {}
        self._lite = str(self._call(MilvusClient.get_server_version)).startswith("milvus_lite")

    @classmethod
    def at(
        cls, addresses: Addresses, config: MilvusConfig, sleep: Callable[[float], None] = time.sleep
    ) -> MilvusVectorStore:
        """Connect to where the environment says, as the deployment that it names.

        Args:
            addresses: Where the services are.
            config: As for the class.
            sleep: As for the class.

        Raises:
            ServiceUnavailable: As for the class.
        """
        token = addresses.milvus_token.get_secret_value()
        return cls(addresses.milvus, config, token, deployment=addresses.deployment, sleep=sleep)

    # Versions

    def create_version(self, info: VersionInfo) -> None:
        """Make a version's collections, indexes and marker, as far as they are not there yet."""
        users, items = self._names.users_of(info.model_version), self._names.items_of(info.model_version)
        self._call(self._create, items, layout.items_schema(info), "vector", self._item_index(info))
        self._call(self._create, users, layout.users_schema(info), "interests", {"index_type": "FLAT"})
        for name in (items, users):
            self._call(MilvusClient.load_collection, name)
        self._upsert_users(info, [layout.marker(info)])

    def renew_version(self, info: VersionInfo) -> bool:
        """Make a version's collections anew, but for that of its items where it can go on."""
        version = info.model_version
        self.drop_version(version, keep_items=True)
        for left in self._names.items_left_among(self._call(MilvusClient.list_collections)):
            items = self._names.items_of(left)
            if left != version or not self._described(items).has_items_of(info):
                self._call(MilvusClient.drop_collection, items)
        self.create_version(info)
        return self.count_items(version) > 0

    def publish_lock(self) -> MilvusPublishLock:
        """Return the lock of this deployment's publishers."""
        return MilvusPublishLock(self._connection, self._names.publish_lock, lite=self._lite)

    def _create(self, client: MilvusClient, name: str, schema: Any, field: str, index: Any, *, timeout: float) -> None:
        """Make a collection with its index, and begin to load it."""
        if not client.has_collection(name, timeout=timeout):
            # Milvus Lite drops descriptions and keeps properties; other servers know only properties of their own.
            properties = {layout.INFO_PROPERTY: schema.description} if self._lite else {}
            settings = {"consistency_level": "Bounded", "properties": properties}
            client.create_collection(name, schema=schema, timeout=timeout, **settings)
        if not client.list_indexes(name, timeout=timeout):
            params = client.prepare_index_params()
            params.add_index(field, metric_type="IP", **index)
            client.create_index(name, params, timeout=timeout, sync=False)
        client.load_collection(name, timeout=timeout, _async=True)

    def _item_index(self, info: VersionInfo) -> dict[str, Any]:
        few = info.num_items < self._config.flat_below
        if few or self._lite or self._config.index == "FLAT":  # Lite's HNSW loses items under a filter
            return {"index_type": "FLAT"}
        params = {"M": self._config.hnsw_m, "efConstruction": self._config.hnsw_ef_construction}
        return {"index_type": "HNSW", "params": params}

    def versions(self) -> Sequence[VersionInfo]:
        """Return all versions, by step then name."""
        names = self._names.versions_among(self._call(MilvusClient.list_collections))
        infos = [self._described(self._names.users_of(name)) for name in names]
        return sorted(infos, key=lambda info: (info.step, info.model_version))

    def drop_version(self, model_version: str, *, keep_items: bool = False) -> None:
        """Remove a version that is neither active nor staged.

        Milvus would drop a collection with the alias that leads to it, so this is looked at first.
        """
        users = self._names.users_of(model_version)
        targets = [self._target(alias) for alias in (self._names.users_alias, self._names.staged_alias)]
        if users in targets or self.active_version() == model_version:
            raise VectorStoreError(f"version {model_version} is active or staged: it cannot be dropped")
        for name in (users, *(() if keep_items else (self._names.items_of(model_version),))):
            self._call(MilvusClient.drop_collection, name)
        self._infos.pop(model_version, None)

    def release_version(self, model_version: str) -> None:
        """Let the server's memory go of a version's collections; the next call that reads one loads it again."""
        for name in (self._names.items_of(model_version), self._names.users_of(model_version)):
            self._call(MilvusClient.release_collection, name)

    def is_released(self, model_version: str) -> bool:
        """Tell whether a version's users, which go last, are not loaded."""
        state = self._call(MilvusClient.get_load_state, self._names.users_of(model_version))["state"]
        return bool(state == LoadState.NotLoad)

    def load_version(self, model_version: str) -> None:
        """Load a version's collections, and wait until they are.

        Raises:
            VectorStoreError: They were not within `settle_s`.
        """
        give_up = time.monotonic() + self._config.settle_s
        for name in (self._names.users_of(model_version), self._names.items_of(model_version)):
            self._call(MilvusClient.load_collection, name, _async=True)
            while self._call(MilvusClient.get_load_state, name)["state"] != LoadState.Loaded:
                if time.monotonic() > give_up:
                    raise VectorStoreError(f"{name} was not loaded within {self._config.settle_s:g} s")
                self._sleep(_SETTLE_POLL_S)

    def version_info(self, model_version: str) -> VersionInfo:
        """Return what a version is; it never changes, so it is asked for once."""
        if model_version not in self._infos:
            self._infos[model_version] = self._described(self._names.users_of(model_version))
        return self._infos[model_version]

    def _described(self, collection: str) -> VersionInfo:
        return layout.read_info(self._call(MilvusClient.describe_collection, collection))

    # The switch

    def activate(self, model_version: str) -> None:
        """Move the alias of users until a read through it shows the version; then that of items.

        A move can leave readers on the old target though the server lists the new one; moving again mends it.

        Raises:
            VectorStoreError: Reads through the alias did not show the version within `retry_s`.
        """
        users = self._there(model_version)
        give_up = time.monotonic() + self._config.retry_s
        self._call(_move, self._names.users_alias, users)
        while self._marker("Strong") != model_version:
            if time.monotonic() > give_up:
                raise VectorStoreError(
                    f"the alias {self._names.users_alias!r} does not lead readers to {model_version}"
                )
            self._sleep(0.1)
            self._call(_move, self._names.users_alias, users)
        self._call(_move, self._names.items_alias, self._names.items_of(model_version))
        if self.staged_version() == model_version:
            self.stage(None)

    def active_version(self) -> str | None:
        """Return the version that the marker names, read through the alias of users."""
        if self._target(self._names.users_alias) is None:
            return None
        return self._marker("Bounded") or self._marker("Strong")  # a marker just written shows only in strong reads

    def stage(self, model_version: str | None) -> None:
        """Point the alias of staged users at a version, or remove it."""
        if model_version is None:
            self._call(MilvusClient.drop_alias, self._names.staged_alias)
        else:
            self._call(_move, self._names.staged_alias, self._there(model_version))

    def staged_version(self) -> str | None:
        """Return the version that the alias of staged users is set to."""
        target = self._target(self._names.staged_alias)
        return self._described(target).model_version if target else None

    def _target(self, alias: str) -> str | None:
        """Return the collection an alias is set to, as the server lists it; readers may lag behind."""
        return self._call(_target, alias)

    def _there(self, model_version: str) -> str:
        """Return the collection of a version's users, having seen that it exists."""
        users = self._names.users_of(model_version)
        self._described(users)
        return users

    def _marker(self, consistency: str) -> str | None:
        found = self._get(self._names.users_alias, [layout.MARKER_KEY], consistency, ["model_version"])
        return str(found[0]["model_version"]) if found else None

    # Items

    def upsert_items(self, model_version: str, rows: ItemRows) -> None:
        """Write items, in as many requests as their size needs."""
        info = self.version_info(model_version)
        check_items(info, rows)
        self._upsert(self._names.items_of(model_version), layout.item_fields(info, rows))

    def settle_items(self, model_version: str) -> None:
        """Write the items out, and wait until all are served from the index.

        By itself a server does so some minutes later; between brute force and HNSW it then searches for some seconds
        by a makeshift index that finds half of the best items. FLAT is exact at any time.

        Raises:
            VectorStoreError: The index was not there within `settle_s`.
        """
        info, name = self.version_info(model_version), self._names.items_of(model_version)
        if self._item_index(info)["index_type"] == "FLAT" or not self._config.settle_s:
            return
        self._call(MilvusClient.flush, name)
        num_items = self.count_items(model_version)
        give_up = time.monotonic() + self._config.settle_s
        while (num_settled := self._num_settled(name)) < num_items:
            if time.monotonic() > give_up:
                found = f"{num_settled} of {num_items} items of {model_version} are served from the index"
                raise VectorStoreError(f"{found} after {self._config.settle_s:g} s; milvus.settle_s bounds the wait")
            self._sleep(_SETTLE_POLL_S)

    def _num_settled(self, collection: str) -> int:
        """Return how many items are in segments with an index, or too small to get one."""
        segments = self._call(MilvusClient.list_loaded_segments, collection)
        sealed = [each for each in segments if each.state == SegmentState.Sealed]
        settled = [each for each in sealed if each.index_name or each.num_rows < _SMALLEST_INDEXED]
        return sum({each.segment_id: each.num_rows for each in settled}.values())

    def count_items(self, model_version: str, *, between: tuple[int, int] | None = None) -> int:
        """Return how many items a version has."""
        wanted = f"item_id >= {int(between[0])} and item_id <= {int(between[1])}" if between else ""
        return self._count(self._names.items_of(model_version), wanted)

    def search_items(
        self,
        model_version: str,
        queries: Vectors,
        limit: int,
        *,
        filter: Filter | None = None,
        columns: Sequence[str] = (),
    ) -> Sequence[Hits]:
        """Return for each query the `limit` items with the largest inner product.

        Items written in the last seconds may be missing.
        """
        info, name = self.version_info(model_version), self._names.items_of(model_version)
        check_search(info, queries, limit, columns)
        wanted = layout.expression(conditions(info, filter))
        ef = min(max(self._config.search_ef, limit) * (_FILTERED_EF if wanted else 1), _MAX_EF)
        settings = {
            "filter": wanted,
            "limit": limit,
            "search_params": {"metric_type": "IP", "params": {"ef": ef}},
            # Never the vector: searches that return it fail now and then. Nor the key, which every hit has.
            "output_fields": [*columns, *([layout.MISSING] if columns and info.marks_missing else ())],
        }
        hits: list[Hits] = []
        for start in range(0, len(queries), _MAX_QUERIES):
            part = list(queries[start : start + _MAX_QUERIES].astype(np.float32))
            found = self._call(MilvusClient.search, name, part, **settings)
            hits += [_hits(info, entities, columns) for entities in found]
        return hits

    # Users

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        """Write users, in as many requests as their size needs."""
        info = self.version_info(model_version)
        check_users(info, rows)
        self._upsert_users(info, rows)

    def _upsert_users(self, info: VersionInfo, rows: Sequence[UserRow]) -> None:
        users, fields = self._names.users_of(info.model_version), layout.behavior_fields(info)
        for part in parts_of_users(info, rows, _MAX_ROWS, _MAX_BYTES):
            self._call(upsert_users, users, user_columns(info, part, fields), len(part))

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        """Return the rows found; a strong read waits for the server's next time tick, 200 to 400 ms."""
        consistency = "Strong" if strong else "Bounded"
        rows = [row for part in _parts(user_keys) for row in self._read(model_version, part, consistency)]
        return {row.user_key: row for row in rows}

    def get_interests(self, model_version: str, user_keys: Sequence[int]) -> dict[int, UserRow]:
        """Return what a search needs of the rows found."""
        info, name = self.version_info(model_version), self._names.users_of(model_version)
        parts = (self._get(name, part, "Bounded", layout.SEARCHED_WITH) for part in _parts(user_keys))
        rows = [layout.read_interests(info, fields) for found in parts for fields in found]
        return {row.user_key: row for row in rows}

    def _read(self, model_version: str, user_keys: Sequence[int], consistency: str) -> list[UserRow]:
        info = self.version_info(model_version)
        found = self._get(self._names.users_of(model_version), user_keys, consistency, ["*"])
        return [layout.read_user(info, fields) for fields in found]

    def search_users(self, model_version: str, vector: Vectors, limit: int) -> Sequence[Hits]:
        """Return for each interest of users the `limit` users whose one is closest to a vector, in one search."""
        info, name = self.version_info(model_version), self._names.users_of(model_version)
        check_search(info, vector[None], limit, ())
        settings = {"filter": _NOBODY, "limit": limit, "search_params": {"metric_type": "IP"}}
        found = self._call(MilvusClient.search, name, list(slots(info, vector)), anns_field="interests", **settings)
        return [_hits(info, hits, ()) for hits in found]

    def delete_users(self, model_version: str, user_keys: Sequence[int]) -> None:
        """Remove users."""
        for part in _parts(user_keys):
            self._call(MilvusClient.delete, self._names.users_of(model_version), ids=[int(key) for key in part])

    def count_users(self, model_version: str) -> int:
        """Return how many users a version has."""
        return self._count(self._names.users_of(model_version), _NOBODY)

    def scan_users(self, model_version: str) -> Iterator[UserRow]:
        """Yield every user in key order, as they were at the start."""
        self.count_users(model_version)  # pymilvus drops an iterator's consistency level: a strong read goes before it
        info, name = self.version_info(model_version), self._names.users_of(model_version)
        settings = {"filter": _NOBODY, "output_fields": ["*"]}
        pages = self._call(MilvusClient.query_iterator, name, _MAX_ROWS, **settings)
        while page := self._call(lambda _client, _name, timeout: pages.next(), name):  # noqa: ARG005 - it has its own
            yield from (layout.read_user(info, fields) for fields in page)
        pages.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # Requests

    def _upsert(self, collection: str, rows: Iterator[dict[str, Any]]) -> None:
        for batch in _batches(rows):
            self._call(MilvusClient.upsert, collection, batch)

    def _get(
        self, collection: str, keys: Sequence[int], consistency: str, fields: Sequence[str]
    ) -> Sequence[dict[str, Any]]:
        ids = [int(key) for key in keys]  # a key goes into an expression as it is: nothing but a number may
        settings = {"output_fields": list(fields), "consistency_level": consistency}
        found: Sequence[dict[str, Any]] = self._call(MilvusClient.get, collection, ids, **settings)
        return found

    def _count(self, collection: str, wanted: str) -> int:
        settings = {"output_fields": ["count(*)"], "consistency_level": "Strong"}
        [row] = self._call(MilvusClient.query, collection, wanted, **settings)
        return int(row["count(*)"])


def _target(client: MilvusClient, alias: str, *, timeout: float) -> str | None:
    try:
        return str(client.describe_alias(alias, timeout=timeout)["collection_name"])
    except MilvusException as error:
        if error.code in _NO_ALIAS:
            return None
        raise


def _move(client: MilvusClient, alias: str, collection: str, *, timeout: float) -> None:
    """Set an alias; where its collection was dropped, a server may list none, and yet not create it anew."""
    try:
        client.alter_alias(collection, alias, timeout=timeout)
    except MilvusException as error:
        if error.code not in _NO_ALIAS:
            raise
        client.create_alias(collection, alias, timeout=timeout)


def _hits(info: VersionInfo, found: Any, columns: Sequence[str]) -> Hits:
    """Return what a query found; keys and scores come as lists, which spares a look into each hit."""
    entities = [hit["entity"] for hit in found] if columns else []
    return Hits(
        np.array(found.ids, dtype=np.int64),
        np.array(found.distances, dtype=np.float32),
        layout.read_columns(info, entities, columns),
    )


def _parts(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut keys into parts that one request can name."""
    return (keys[start : start + _MAX_ROWS] for start in range(0, len(keys), _MAX_ROWS))


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into batches that one request can carry."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        row_bytes = sum(_size(value) for value in row.values())
        if batch and (len(batch) == _MAX_ROWS or size + row_bytes > _MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_bytes
    if batch:
        yield batch


def _size(value: Any) -> int:
    match value:
        case str():
            return len(value.encode())
        case list():
            return sum(_size(part) for part in value)
        case np.ndarray():
            return int(value.nbytes)
    return 8
