"""How versions lie in Milvus: names of collections and aliases, their fields, rows, and filters as expressions.

    items__{version}   item_id → vector [D], the version's filter columns, missing_columns: those without a value
    users__{version}   user_id → interests [K·D], … : all of a user in one row, replaced together

All names begin with the deployment's, and `__`, where it has one.
What a version is stands in its collections' descriptions; Milvus Lite drops these, so it gets a property instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pymilvus import CollectionSchema, DataType, MilvusClient

from mind_dist.config import prefixed
from mind_dist.index.filters import PLACEHOLDERS, Condition
from mind_dist.index.vector_store import Column, ItemRows, Scalar, UserRow, VersionInfo
from mind_dist.limits import FIRST_KEY, MAX_PROFILE, MAX_TEXT_BYTES, MAX_TEXTS
from mind_dist.records import KeyRows, no_rows
from mind_dist.strict_json import from_json, to_json

R = TypeVar("R")

MARKER_KEY = FIRST_KEY - 1
"""Key of the row in each version's users that tells, read through the alias, which version the alias leads to."""

INFO_PROPERTY = "mind_dist.version"

MISSING = "missing_columns"
"""Names of the columns in which an item has no value, and holds the placeholder of the kind instead."""

_MAX_NAME = 256


class Names:
    """What a deployment's collections and aliases are called.

    Args:
        deployment: Its name; empty for none.
    """

    def __init__(self, deployment: str) -> None:
        self.users_alias = prefixed(deployment, "users")
        self.items_alias = prefixed(deployment, "items")
        self.staged_alias = prefixed(deployment, "users_next")
        self.publish_lock = prefixed(deployment, "publishing")
        self._users_prefix = prefixed(deployment, "users__")
        self._items_prefix = prefixed(deployment, "items__")

    def users_of(self, model_version: str) -> str:
        """Return the name of a version's collection of users."""
        return self._users_prefix + model_version

    def items_of(self, model_version: str) -> str:
        """Return the name of a version's collection of items."""
        return self._items_prefix + model_version

    def versions_among(self, collections: Sequence[str]) -> list[str]:
        """Return the deployment's versions that have both their collections.

        >>> found = ["users__v1", "items__v1", "shop__users__v2", "shop__items__v2", "shop_eu__users__v3"]
        >>> Names("").versions_among(found), Names("shop").versions_among(found), Names("shop_eu").versions_among(found)
        (['v1'], ['v2'], [])
        """
        present, prefix = set(collections), self._users_prefix
        versions = [name.removeprefix(prefix) for name in collections if name.startswith(prefix)]
        return [version for version in versions if self.items_of(version) in present]

    def items_left_among(self, collections: Sequence[str]) -> list[str]:
        """Return the deployment's versions of which only the items are there."""
        present, prefix = set(collections), self._items_prefix
        versions = [name.removeprefix(prefix) for name in collections if name.startswith(prefix)]
        return [version for version in versions if self.users_of(version) not in present]


def items_schema(info: VersionInfo) -> CollectionSchema:
    """Return the fields of a version's items."""
    schema = _schema(info)
    schema.add_field("item_id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=info.dim)
    for column in info.columns:
        _add_column(schema, column)
    if info.marks_missing:
        _add_array(schema, MISSING, DataType.VARCHAR, max(1, len(info.columns)), max_length=_MAX_NAME)
    return schema


def _add_column(schema: CollectionSchema, column: Column) -> None:
    match column.kind:
        case "integer":
            schema.add_field(column.name, DataType.INT64)
        case "real":
            schema.add_field(column.name, DataType.DOUBLE)
        case "text":
            schema.add_field(column.name, DataType.VARCHAR, max_length=MAX_TEXT_BYTES)
        case _:
            _add_array(schema, column.name, DataType.VARCHAR, MAX_TEXTS, max_length=MAX_TEXT_BYTES)


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
    for name in behavior_fields(info):
        _add_array(schema, name, DataType.INT64, info.max_behaviors)
    for name in ("partition", "state_offset", "updated_ms"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("model_version", DataType.VARCHAR, max_length=_MAX_NAME)
    return schema


def behavior_fields(info: VersionInfo) -> list[str]:
    """Return the fields that have a key of each behavior, one for each feature of behaviors."""
    return [f"behavior_keys_{place}" for place in range(len(info.behavior_features))]


def _schema(info: VersionInfo) -> CollectionSchema:
    return MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=info_text(info))


def _add_array(schema: CollectionSchema, name: str, kind: DataType, capacity: int, **settings: int) -> None:
    schema.add_field(name, DataType.ARRAY, element_type=kind, max_capacity=capacity, **settings)


def info_text(info: VersionInfo) -> str:
    """Return a version's description."""
    return to_json(info.to_json())


def read_info(described: Mapping[str, Any]) -> VersionInfo:
    """Return what a collection's description tells of its version."""
    text = described["description"] or described["properties"][INFO_PROPERTY]
    return VersionInfo.from_json(from_json(text))


def item_fields(info: VersionInfo, rows: ItemRows) -> Iterator[dict[str, Any]]:
    """Yield items as Milvus takes them: placeholders for missing values, and the names of their columns."""
    fields: dict[str, Iterable[Any]] = {"item_id": rows.keys.tolist(), "vector": rows.vectors.astype(np.float32)}
    fields |= {column.name: _filled(column, rows.columns[column.name]) for column in info.columns}
    if info.marks_missing:
        fields[MISSING] = _missing_columns(info, rows)
    return (dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True))


def _filled(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    return [PLACEHOLDERS[column.kind] if value is None else value for value in values] if column.nullable else values


def _missing_columns(info: VersionInfo, rows: ItemRows) -> list[list[str]]:
    """Return for each item the names of the columns in which it has no value."""
    found: list[list[str]] = [[] for _ in rows.keys]
    for name in (column.name for column in info.columns if column.nullable):
        for missing, value in zip(found, rows.columns[name], strict=True):
            if value is None:
                missing.append(name)
    return found


def read_columns(
    info: VersionInfo, entities: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> dict[str, list[Any]]:
    """Return columns of items from what Milvus gives: None where a value is missing."""
    if not info.marks_missing:
        return {name: [entity[name] for entity in entities] for name in columns}
    return {name: [None if name in each[MISSING] else each[name] for each in entities] for name in columns}


def marker(info: VersionInfo) -> UserRow:
    """Return the row that names the version."""
    return UserRow(MARKER_KEY, np.empty((0, info.dim), dtype=np.float32), np.empty(0, dtype=np.float32))


SEARCHED_WITH = ("user_id", "interests", "num_interests", "weights", "behaviors", "model_version")
"""Fields of a user that a search needs."""


def read_interests(info: VersionInfo, fields: Mapping[str, Any]) -> UserRow:
    """Return a user from the fields that a search needs."""
    interests = np.array(fields["interests"], dtype=np.float32).reshape(-1, info.dim)
    return UserRow(
        fields["user_id"],
        interests[: fields["num_interests"]],
        np.array(fields["weights"], dtype=np.float32),
        np.array(fields["behaviors"], dtype=np.int64),
        model_version=fields["model_version"],
    )


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
        state_offset=fields["state_offset"],
        updated_ms=fields["updated_ms"],
        model_version=fields["model_version"],
        behavior_keys=_behavior_keys(info, fields),
    )


def _behavior_keys(info: VersionInfo, fields: Mapping[str, Any]) -> KeyRows:
    columns = [fields[name] for name in behavior_fields(info)]
    return np.array(columns, dtype=np.int64).T if columns else no_rows()


def expression(conditions: Sequence[Condition]) -> str:
    """Return checked conditions as a Milvus expression; empty for none.

    They are nested in pairs: Milvus refuses an expression that is some 60 levels deep, which a plain chain of so many
    conditions is. JSON's string literals are Milvus' own, but for escapes of control characters, which the checks let
    none through.

    >>> from mind_dist.index.vector_store import Column
    >>> drama = Condition(Column("genre"), "in", ("drama", "war"))
    >>> expression([drama, Condition(Column("year", "integer"), "gte", 1999)])
    '(genre in ["drama", "war"]) and (year >= 1999)'
    >>> expression([Condition(Column("price", "real", nullable=True), "lt", 20.0)])
    '(price < 20.0) and not (array_contains(missing_columns, "price"))'
    """
    if len(conditions) <= 1:
        return "".join(_term(condition) for condition in conditions)
    half = len(conditions) // 2
    return f"({expression(conditions[:half])}) and ({expression(conditions[half:])})"


def _term(condition: Condition) -> str:
    column = condition.column
    if condition.operator == "null":
        missing = f"array_length({column.name}) == 0" if column.kind == "texts" else _missing(column)
        return missing if condition.operand else f"not ({missing})"
    wanted, found = condition.meets(None), condition.meets(PLACEHOLDERS[column.kind])
    if not column.nullable or wanted == found:
        return _comparison(condition)
    return f"({_comparison(condition)}) {'or' if wanted else 'and not'} ({_missing(column)})"


def _missing(column: Column) -> str:
    return f"array_contains({MISSING}, {_literal(column.name)})"


_SYMBOLS: dict[str, str] = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "in": "in", "not_in": "not in"}


def _comparison(condition: Condition) -> str:
    name, operator = condition.column.name, condition.operator
    if operator not in ("in", "not_in"):
        return f"{name} {_SYMBOLS[operator]} {_literal(condition.operand)}"
    values = ", ".join(_literal(value) for value in condition.operand)
    if condition.column.kind != "texts":
        return f"{name} {_SYMBOLS[operator]} [{values}]"
    any_of = f"array_contains_any({name}, [{values}])"
    return any_of if operator == "in" else f"not ({any_of})"


def _literal(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)  # noqa: TID251 - Milvus's expressions, whose texts are JSON's
