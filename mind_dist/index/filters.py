"""Filter → checked conditions, and whether a value meets one: what every store does the same.

Servers have no nulls: a missing value is stored as a placeholder of its kind, and as a mark beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mind_dist.errors import InvalidRequest
from mind_dist.index.vector_store import Column, Filter, Scalar, VersionInfo

Operator = Literal["lt", "lte", "gt", "gte", "in", "not_in", "null"]
"""What a column can be asked."""

RANGES = ("lt", "lte", "gt", "gte")
"""Operators that compare with one value."""

PLACEHOLDERS: Mapping[str, Any] = {"text": "", "texts": [], "integer": 0, "real": 0.0}
"""Kind → what is stored in a column for a missing value."""

MAX_FILTER_VALUES = 1000
"""Most values of a filter, over all columns. Milvus standalone parses 1,000 in 10 to 30 ms, 50,000 in 300 ms."""

MAX_FILTER_BYTES = 1_000_000
"""Most bytes of text in a filter: 1,000 texts of 1,000 bytes take Milvus standalone 80 ms."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a column must hold.

    Attributes:
        column: The column.
        operator: How it is compared.
        operand: With what: a tuple of values for `in` and `not_in`, a bool for `null`, one value otherwise.
    """

    column: Column
    operator: Operator
    operand: Any

    def meets(self, value: Any) -> bool:
        """Tell whether an item's value, None or [] where it is missing, meets the condition."""
        if self.operator == "null":
            return _is_missing(value) is self.operand
        if self.operator in {"in", "not_in"}:
            values = value if self.column.kind == "texts" else (value,)
            return any(each in self.operand for each in values or ()) is (self.operator == "in")
        return value is not None and _compare(self.operator, value, self.operand)


def _is_missing(value: Any) -> bool:
    return value is None or value == []


def _compare(operator: Operator, value: Any, bound: Any) -> bool:
    match operator:
        case "lt":
            return bool(value < bound)
        case "lte":
            return bool(value <= bound)
        case "gt":
            return bool(value > bound)
    return bool(value >= bound)


def conditions(info: VersionInfo, filter: Filter | None) -> list[Condition]:
    """Return a filter as checked conditions.

    Raises:
        InvalidRequest: A column or operator is unknown or not for this column or version, there is no value, too many
            values, or one that is not of the column's kind.
    """
    known = {column.name: column for column in info.columns}
    found: list[Condition] = []
    for name, wanted in (filter or {}).items():
        if name not in known:
            raise InvalidRequest(f"filter: unknown column {name!r}; known: {', '.join(sorted(known)) or 'none'}")
        found += _conditions_on(known[name], wanted, info)
    _check_size(found)
    return found


def _conditions_on(column: Column, wanted: Any, info: VersionInfo) -> Iterator[Condition]:
    if not isinstance(wanted, Mapping):
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        yield Condition(column, "in", _values(column, "", values))
        return
    if not wanted:
        raise InvalidRequest(f"filter {column.name}: needs at least one of {', '.join(get_args(Operator))}")
    for operator, operand in wanted.items():
        _check_operator(column, operator, info)
        yield Condition(column, operator, _operand(column, operator, operand))


def _check_operator(column: Column, operator: str, info: VersionInfo) -> None:
    place = f"filter {column.name}"
    if operator not in get_args(Operator):
        raise InvalidRequest(f"{place}: unknown operator {operator!r}; known: {', '.join(get_args(Operator))}")
    if column.kind == "texts":
        if operator in RANGES:
            raise InvalidRequest(f"{place}.{operator}: a column of several texts has no ranges; use in or not_in")
    elif operator in (*RANGES, "null") and not info.marks_missing:
        raise InvalidRequest(
            f"{place}.{operator}: version {info.model_version} was published before missing values were marked; "
            "publish a version anew to use ranges and null"
        )


def _operand(column: Column, operator: str, operand: Any) -> Any:
    if operator in RANGES:
        return _of_kind(column, operator, operand)
    if operator == "null":
        if not isinstance(operand, bool):
            raise InvalidRequest(f"filter {column.name}.null: {_shown(operand)} must be true or false")
        return operand
    if isinstance(operand, str) or not isinstance(operand, Sequence):
        raise InvalidRequest(f"filter {column.name}.{operator}: {_shown(operand)} must be a list of values")
    return _values(column, operator, operand)


def _values(column: Column, operator: str, values: Sequence[Any]) -> tuple[Scalar, ...]:
    """Return values, each once."""
    if not values:
        raise InvalidRequest(f"filter {_place(column, operator)}: needs at least one value")
    return tuple(dict.fromkeys(_of_kind(column, operator, value) for value in values))


def _of_kind(column: Column, operator: str, value: Any) -> Scalar:
    match column.kind, value:
        case "text" | "texts", str() if _is_plain(value):
            return value
        case "integer", int() if not isinstance(value, bool) and -(2**63) < value < 2**63:
            return value
        case "real", int() | float() if not isinstance(value, bool) and _is_double(value):
            return float(value)
    place = _place(column, operator)
    raise InvalidRequest(f"filter {place}: {_shown(value)} is not allowed in a column of kind {column.kind}")


def _place(column: Column, operator: str) -> str:
    return f"{column.name}.{operator}" if operator else column.name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"  # noqa: PLR2004 - as much as fits a line


def _is_double(value: float) -> bool:
    """Tell whether a number is finite as a double, which a long integer may not be."""
    return abs(value) < 2**1023 if isinstance(value, int) else math.isfinite(value)


def _is_plain(text: str) -> bool:
    """Tell whether every server can parse the text in a filter: no control characters but tab and line ends."""
    return all(c >= " " or c in "\t\n\r" for c in text) and not any("\ud800" <= c <= "\udfff" for c in text)


def _check_size(found: Iterable[Condition]) -> None:
    values = [value for condition in found for value in _listed(condition.operand)]
    if len(values) > MAX_FILTER_VALUES:
        raise InvalidRequest(f"filter: {len(values):,} values, at most {MAX_FILTER_VALUES:,}")
    num_bytes = sum(len(value.encode()) for value in values if isinstance(value, str))
    if num_bytes > MAX_FILTER_BYTES:
        raise InvalidRequest(f"filter: {num_bytes:,} bytes of text, at most {MAX_FILTER_BYTES:,}")


def _listed(operand: Any) -> tuple[Any, ...]:
    return operand if isinstance(operand, tuple) else (operand,)
