"""What every store checks before it acts, because servers do not: widths, finite numbers, limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mind_dist.errors import InvalidRequest, VectorStoreError
from mind_dist.index.vector_store import MAX_LIMIT, ItemRows, UserRow, Vectors, VersionInfo
from mind_dist.limits import FIRST_KEY, LAST_KEY, MAX_PROFILE


def check_search(info: VersionInfo, queries: Vectors, limit: int, columns: Sequence[str]) -> None:
    """Check a search.

    Raises:
        InvalidRequest: The limit is out of range, a query is of another width or not finite, or a column is unknown.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit {limit} must be between 1 and {MAX_LIMIT}")
    if queries.ndim != 2 or queries.shape[1] != info.dim:  # noqa: PLR2004 - [Q, D]
        raise InvalidRequest(f"queries of shape {queries.shape} must be [Q, {info.dim}]")
    if not np.isfinite(queries).all():
        raise InvalidRequest("queries must be finite numbers")
    unknown = set(columns) - {column.name for column in info.columns}
    if unknown:
        raise InvalidRequest(f"unknown columns: {', '.join(sorted(unknown))}")


def slots(info: VersionInfo, vector: Vectors) -> Vectors:
    """Return the queries that compare a vector with each interest of users: it in one slot, and zeros elsewhere, [K, K·D].

    >>> info = VersionInfo("v", dim=2, num_interests=2, similarity="cosine", uri="", max_behaviors=1)
    >>> slots(info, np.array([1, 2], dtype=np.float32)).tolist()
    [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]]
    """
    places = np.eye(info.num_interests, dtype=np.float32)
    return np.asarray(np.kron(places, vector.astype(np.float32)), dtype=np.float32)


def check_items(info: VersionInfo, rows: ItemRows) -> None:
    """Check items before they are written.

    Raises:
        VectorStoreError: A vector is of another width or not finite, the columns are not the version's, or a value is
            missing in a column that is not nullable.
    """
    assert len(np.unique(rows.keys)) == len(rows.keys), "an item may be only once in a batch"
    if rows.vectors.shape != (len(rows.keys), info.dim):
        raise VectorStoreError(f"item vectors of shape {rows.vectors.shape} must be [{len(rows.keys)}, {info.dim}]")
    finite = np.isfinite(rows.vectors).all(axis=1)
    if not finite.all():
        raise VectorStoreError(f"the vector of item {rows.keys[~finite][0]} is not finite")
    sizes = {name: len(values) for name, values in rows.columns.items()}
    if sizes != {column.name: len(rows.keys) for column in info.columns}:
        raise VectorStoreError(f"columns {sizes} must be the version's, with {len(rows.keys)} values each")
    for column in info.columns:
        if not column.nullable and any(value is None for value in rows.columns[column.name]):
            raise VectorStoreError(f"column {column.name} is not nullable, and lacks values")


def check_users(info: VersionInfo, rows: Sequence[UserRow]) -> None:
    """Check users before they are written.

    Raises:
        VectorStoreError: A row's vectors are of another width, too many or not finite, or its history is too long.
    """
    assert len({row.user_key for row in rows}) == len(rows), "a user may be only once in a batch"
    for row in rows:
        problem = _problem(info, row)
        if problem:
            raise VectorStoreError(f"user {row.user_key}: {problem}")


def _problem(info: VersionInfo, row: UserRow) -> str:  # noqa: PLR0911 - one for each rule
    num_interests = len(row.interests)
    if not FIRST_KEY <= row.user_key <= LAST_KEY:
        return f"keys are between {FIRST_KEY} and {LAST_KEY}"
    if num_interests > info.num_interests or row.interests.shape != (num_interests, info.dim):
        return f"interests of shape {row.interests.shape} must be [at most {info.num_interests}, {info.dim}]"
    if len(row.weights) != num_interests:
        return f"{len(row.weights)} weights for {num_interests} interests"
    if not (np.isfinite(row.interests).all() and np.isfinite(row.weights).all()):
        return "interests and weights must be finite"
    if not len(row.behaviors) == len(row.timestamps_ms) <= info.max_behaviors:
        return f"{len(row.behaviors)} behaviors with {len(row.timestamps_ms)} times, at most {info.max_behaviors}"
    shape = (len(row.behaviors), len(info.behavior_features))
    if row.behavior_keys.shape != shape and (row.behavior_keys.size or shape[0] * shape[1]):
        return f"behavior keys of shape {row.behavior_keys.shape} must be {list(shape)}"
    if len(row.profile) > MAX_PROFILE:
        return f"{len(row.profile)} profile keys, at most {MAX_PROFILE}"
    return ""
