"""How versions lie in Milvus: names of collections and aliases, their fields, rows, and filters as expressions.

    items__{version}   item_id → vector [D], the version's filter columns
    users__{version}   user_id → interests [K·D], … : all of a user in one row, replaced together

What a version is stands in its collections' descriptions; Milvus Lite drops these, so it gets a property instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pymilvus import CollectionSchema, DataType, MilvusClient

from mind_dist.index.checks import MAX_PROFILE, Condition
from mind_dist.index.vector_store import Column, ItemRows, Scalar, UserRow, VersionInfo
from mind_dist.limits import FIRST_KEY

R = TypeVar("R")

USERS_ALIAS, ITEMS_ALIAS, STAGED_ALIAS = "users", "items", "users_next"
_USERS_PREFIX, _ITEMS_PREFIX = "users__", "items__"

MARKER_KEY = FIRST_KEY - 1
"""Key of the row in each version's users that tells, read through the alias, which version the alias leads to."""

INFO_PROPERTY = "mind_dist.version"

_MAX_TEXT_BYTES = 65_535
_MAX_TEXTS = 4096
_MAX_NAME = 256


def users_of(model_version: str) -> str:
    """Return the name of a version's collection of users."""
    return _USERS_PREFIX + model_version


def items_of(model_version: str) -> str:
    """Return the name of a version's collection of items."""
    return _ITEMS_PREFIX + model_version


def versions_among(collections: Sequence[str]) -> list[str]:
    """Return the versions that have both their collections."""
    present = set(collections)
    versions = [name.removeprefix(_USERS_PREFIX) for name in collections if name.startswith(_USERS_PREFIX)]
    return [version for version in versions if items_of(version) in present]


def items_schema(info: VersionInfo) -> CollectionSchema:
    """Return the fields of a version's items."""
    schema = _schema(info)
    schema.add_field("item_id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=info.dim)
    for column in info.columns:
        _add_column(schema, column)
    return schema


def _add_column(schema: CollectionSchema, column: Column) -> None:
    match column.kind:
        case "integer":
            schema.add_field(column.name, DataType.INT64)
        case "real":
            schema.add_field(column.name, DataType.DOUBLE)
        case "text":
            schema.add_field(column.name, DataType.VARCHAR, max_length=_MAX_TEXT_BYTES)
        case _:
            _add_array(schema, column.name, DataType.VARCHAR, _MAX_TEXTS, max_length=_MAX_TEXT_BYTES)


def users_schema(info: VersionInfo) -> CollectionSchema:
    """Return the fields of a version's users."""
    schema = _schema(info)
    schema.add_field("user_id", DataType.INT64, is_primary=True)
    schema.add_field("interests", DataType.FLOAT_VECTOR, dim=info.num_interests * info.dim)
    schema.add_field("num_interests", DataType.INT64)
    _add_array(schema, "weights", DataType.FLOAT, info.num_interests)
    _add_array(schema, "behaviors", DataType.INT64, info.max_behaviors)
    _add_array(schema, "timestamps_ms", DataType.INT64, info.max_behaviors)
    _add_array(schema, "profile", DataType.INT64, MAX_PROFILE)
    for name in ("partition", "next_offset", "updated_ms"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("model_version", DataType.VARCHAR, max_length=_MAX_NAME)
    return schema


def _schema(info: VersionInfo) -> CollectionSchema:
    return MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=info_text(info))


def _add_array(schema: CollectionSchema, name: str, kind: DataType, capacity: int, **settings: int) -> None:
    schema.add_field(name, DataType.ARRAY, element_type=kind, max_capacity=capacity, **settings)


def info_text(info: VersionInfo) -> str:
    """Return a version's description."""
    return json.dumps(info.to_json())


def read_info(described: Mapping[str, Any]) -> VersionInfo:
    """Return what a collection's description tells of its version."""
    text = described["description"] or described["properties"][INFO_PROPERTY]
    return VersionInfo.from_json(json.loads(text))


def item_fields(rows: ItemRows) -> Iterator[dict[str, Any]]:
    """Yield items as Milvus takes them."""
    for i, (key, vector) in enumerate(zip(rows.keys.tolist(), rows.vectors.astype(np.float32), strict=True)):
        yield {"item_id": key, "vector": vector, **{name: values[i] for name, values in rows.columns.items()}}


def user_fields(info: VersionInfo, row: UserRow) -> dict[str, Any]:
    """Return a user as Milvus takes it: the interests one after the other, then zeros."""
    interests = np.zeros(info.num_interests * info.dim, dtype=np.float32)
    interests[: row.interests.size] = row.interests.reshape(-1)
    return {
        "user_id": int(row.user_key),
        "interests": interests,
        "num_interests": len(row.interests),
        "weights": row.weights.tolist(),
        "behaviors": row.behaviors.tolist(),
        "timestamps_ms": row.timestamps_ms.tolist(),
        "profile": row.profile.tolist(),
        "partition": int(row.partition),
        "next_offset": int(row.next_offset),
        "updated_ms": int(row.updated_ms),
        "model_version": info.model_version,
    }


def marker_fields(info: VersionInfo) -> dict[str, Any]:
    """Return the row that names the version."""
    nobody = UserRow(MARKER_KEY, np.empty((0, info.dim), dtype=np.float32), np.empty(0, dtype=np.float32))
    return user_fields(info, nobody)


def read_user(info: VersionInfo, fields: Mapping[str, Any]) -> UserRow:
    """Return a user from what Milvus gives."""
    interests = np.array(fields["interests"], dtype=np.float32).reshape(-1, info.dim)
    return UserRow(
        user_key=fields["user_id"],
        interests=interests[: fields["num_interests"]],
        weights=np.array(fields["weights"], dtype=np.float32),
        behaviors=np.array(fields["behaviors"], dtype=np.int64),
        timestamps_ms=np.array(fields["timestamps_ms"], dtype=np.int64),
        profile=np.array(fields["profile"], dtype=np.int64),
        partition=fields["partition"],
        next_offset=fields["next_offset"],
        updated_ms=fields["updated_ms"],
        model_version=fields["model_version"],
    )


def expression(conditions: Sequence[Condition]) -> str:
    """Return checked conditions as a Milvus expression; empty for none.

    JSON's string literals are Milvus' own, but for escapes of control characters, which the checks let none through.

    >>> from mind_dist.index.vector_store import Column
    >>> expression([Condition(Column("genre"), ("drama", "war")), Condition(Column("year", "integer"), (1999, 2001))])
    'genre in ["drama", "war"] and year in [1999, 2001]'
    """
    return " and ".join(_term(condition) for condition in conditions)


def _term(condition: Condition) -> str:
    values = ", ".join(_literal(value) for value in condition.values)
    if condition.column.kind == "texts":
        return f"array_contains_any({condition.column.name}, [{values}])"
    return f"{condition.column.name} in [{values}]"


def _literal(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)
