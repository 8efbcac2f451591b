"""The vector store in this process: exact search over arrays, the twin of Milvus in tests and evaluation."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mind_dist.errors import VectorStoreError
from mind_dist.index.checks import check_items, check_search, check_users, slots
from mind_dist.index.filters import Condition, conditions
from mind_dist.index.vector_store import Filter, Hits, ItemRows, UserRow, Vectors, VersionInfo
from mind_dist.records import Keys


@dataclass
class _Version:
    info: VersionInfo
    items: ItemRows
    users: dict[int, UserRow] = field(default_factory=dict)
    is_released: bool = False


class InMemoryPublishLock:
    """A `PublishLock` in this process."""

    def __init__(self) -> None:
        self._state: tuple[str, int] | None = None
        self._lock = threading.Lock()

    def create(self, holder: str) -> bool:
        """Make the lock, unless there is one."""
        with self._lock:
            self._state = self._state or (holder, 0)
            return self._state[0] == holder

    def state(self) -> tuple[str, int] | None:
        """Return who holds the lock, and how often it has beaten."""
        return self._state

    def beat(self, holder: str) -> bool:
        """Show that the holder lives."""
        with self._lock:
            if self._state is None or self._state[0] != holder:
                return False
            self._state = holder, self._state[1] + 1
            return True

    def remove(self, holder: str) -> None:
        """Remove the lock if it is this holder's."""
        with self._lock:
            if self._state is not None and self._state[0] == holder:
                self._state = None


class InMemoryVectorStore:
    """A `VectorStore` that keeps everything in memory and searches exactly; safe to share between threads.

    Items of equal score come in ascending order of their keys.
    """

    def __init__(self) -> None:
        self._versions: dict[str, _Version] = {}
        self._items_left: dict[str, _Version] = {}
        self._publish_lock = InMemoryPublishLock()
        self._active: str | None = None
        self._staged: str | None = None
        self._lock = threading.RLock()

    def create_version(self, info: VersionInfo) -> None:
        """Make empty places for a version."""
        nothing = ItemRows(
            np.empty(0, dtype=np.int64),
            np.empty((0, info.dim), dtype=np.float32),
            {column.name: [] for column in info.columns},
        )
        with self._lock:
            self._versions.setdefault(info.model_version, _Version(info, nothing))

    def renew_version(self, info: VersionInfo) -> bool:
        """Make a version's places anew."""
        with self._lock:
            self.drop_version(info.model_version, keep_items=True)
            left = self._items_left.get(info.model_version)
            self._items_left.clear()
            self.create_version(info)
            if left is None or not left.info.has_items_of(info):
                return False
            self._versions[info.model_version].items = left.items
            return len(left.items.keys) > 0

    def publish_lock(self) -> InMemoryPublishLock:
        """Return the lock of publishers."""
        return self._publish_lock

    def versions(self) -> Sequence[VersionInfo]:
        """Return all versions, by step then name."""
        with self._lock:
            infos = [version.info for version in self._versions.values()]
        return sorted(infos, key=lambda info: (info.step, info.model_version))

    def version_info(self, model_version: str) -> VersionInfo:
        """Return what a version is."""
        return self._of(model_version).info

    def drop_version(self, model_version: str, *, keep_items: bool = False) -> None:
        """Remove a version that is neither active nor staged."""
        with self._lock:
            if model_version in (self._active, self._staged):
                raise VectorStoreError(f"version {model_version} is active or staged: it cannot be dropped")
            dropped = self._versions.pop(model_version, None)
            if not keep_items:
                self._items_left.pop(model_version, None)
            elif dropped is not None:
                self._items_left[model_version] = dropped

    def release_version(self, model_version: str) -> None:
        """Note that a version is released; there is no other place to keep it."""
        self._of(model_version).is_released = True

    def is_released(self, model_version: str) -> bool:
        """Tell whether a version was released, and not loaded since."""
        return self._of(model_version).is_released

    def load_version(self, model_version: str) -> None:
        """Note that a version is loaded."""
        self._of(model_version).is_released = False

    def activate(self, model_version: str) -> None:
        """Point readers at a version, which is then no longer staged."""
        with self._lock:
            self._of(model_version)
            self._active = model_version
            if self._staged == model_version:
                self._staged = None

    def active_version(self) -> str | None:
        """Return the version readers are pointed at."""
        return self._active

    def stage(self, model_version: str | None) -> None:
        """Name the staged version."""
        with self._lock:
            if model_version is not None:
                self._of(model_version)
            self._staged = model_version

    def staged_version(self) -> str | None:
        """Return the staged version."""
        return self._staged

    def upsert_items(self, model_version: str, rows: ItemRows) -> None:
        """Write items."""
        with self._lock:
            version = self._of(model_version)
            check_items(version.info, rows)
            version.items = _merged(version.items, rows)

    def settle_items(self, model_version: str) -> None:
        """Do nothing: there is no index to build."""

    def count_items(self, model_version: str, *, between: tuple[int, int] | None = None) -> int:
        """Return how many items a version has."""
        keys = self._of(model_version).items.keys
        return len(keys) if between is None else int(((between[0] <= keys) & (keys <= between[1])).sum())

    def search_items(
        self,
        model_version: str,
        queries: Vectors,
        limit: int,
        *,
        filter: Filter | None = None,
        columns: Sequence[str] = (),
    ) -> Sequence[Hits]:
        """Return for each query the `limit` items with the largest inner product, exactly."""
        version = self._of(model_version)
        check_search(version.info, queries, limit, columns)
        items = version.items
        allowed = np.flatnonzero(_agrees(items, conditions(version.info, filter)))
        scores = queries.astype(np.float32) @ items.vectors[allowed].T
        found = [largest(row, limit) for row in scores]
        return [
            Hits(
                items.keys[allowed[best]],
                row[best],
                {name: [items.columns[name][i] for i in allowed[best]] for name in columns},
            )
            for row, best in zip(scores, found, strict=True)
        ]

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        """Write users."""
        with self._lock:
            version = self._of(model_version)
            check_users(version.info, rows)
            named = [dataclasses.replace(row, model_version=model_version) for row in rows]
            version.users.update({row.user_key: row for row in named})

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:  # noqa: ARG002 - every read is strong here
        """Return the rows found."""
        with self._lock:
            users = self._of(model_version).users
            return {key: users[key] for key in user_keys if key in users}

    def get_interests(self, model_version: str, user_keys: Sequence[int]) -> dict[int, UserRow]:
        """Return the rows found, whole: they are there."""
        return self.get_users(model_version, user_keys, strong=False)

    def search_users(self, model_version: str, vector: Vectors, limit: int) -> Sequence[Hits]:
        """Return for each interest of users the `limit` users whose one is closest to a vector."""
        version = self._of(model_version)
        queries = slots(version.info, vector)
        check_search(version.info, vector[None], limit, ())
        with self._lock:
            rows = sorted(version.users.values(), key=lambda row: row.user_key)
        padded = np.zeros((len(rows), queries.shape[1]), dtype=np.float32)
        for to, row in zip(padded, rows, strict=True):
            to[: row.interests.size] = row.interests.reshape(-1)
        keys = np.array([row.user_key for row in rows], dtype=np.int64)
        scores = queries @ padded.T
        return [Hits(keys[best], row[best]) for row in scores for best in [largest(row, limit)]]

    def delete_users(self, model_version: str, user_keys: Sequence[int]) -> None:
        """Remove users."""
        with self._lock:
            users = self._of(model_version).users
            for key in user_keys:
                users.pop(key, None)

    def count_users(self, model_version: str) -> int:
        """Return how many users a version has."""
        return len(self._of(model_version).users)

    def scan_users(self, model_version: str) -> Iterator[UserRow]:
        """Yield the users there are at the start, in key order."""
        with self._lock:
            rows = sorted(self._of(model_version).users.values(), key=lambda row: row.user_key)
        yield from rows

    def close(self) -> None:
        """Do nothing: the store lives as long as the process."""

    def _of(self, model_version: str) -> _Version:
        try:
            return self._versions[model_version]
        except KeyError:
            raise VectorStoreError(f"version {model_version} is not in the store") from None


def largest(scores: NDArray[np.float32], limit: int) -> Keys:
    """Return the indexes of the `limit` largest scores, largest first, equal ones in ascending order."""
    found = np.arange(len(scores))
    if limit < len(scores):
        found = np.flatnonzero(scores >= np.partition(scores, -limit)[-limit])
    order = np.argsort(-scores[found], kind="stable")[:limit]
    return np.asarray(found[order], dtype=np.int64)


def _merged(old: ItemRows, new: ItemRows) -> ItemRows:
    """Return old and new items in key order; a new one replaces an old one."""
    kept = np.flatnonzero(~np.isin(old.keys, new.keys)).tolist()
    keys = np.concatenate([old.keys[kept], new.keys])
    vectors = np.concatenate([old.vectors[kept], new.vectors]).astype(np.float32)
    order = np.argsort(keys)
    joined: Mapping[str, list[Any]] = {
        name: [values[i] for i in kept] + list(new.columns[name]) for name, values in old.columns.items()
    }
    return ItemRows(keys[order], vectors[order], {name: [v[i] for i in order] for name, v in joined.items()})


def _agrees(items: ItemRows, wanted: Sequence[Condition]) -> NDArray[np.bool_]:
    """Tell which items meet all conditions, [N]."""
    mask = np.ones(len(items.keys), dtype=np.bool_)
    for condition in wanted:
        values = items.columns[condition.column.name]
        mask &= np.fromiter((condition.meets(value) for value in values), np.bool_, len(mask))
    return mask
