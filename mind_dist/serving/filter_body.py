"""The filter of an HTTP request: how it is read, documented, and given to the library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StrictBool, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from mind_dist.index.filters import MAX_FILTER_VALUES
from mind_dist.index.vector_store import Filter


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):  # a bool is an int
        raise PydanticCustomError("scalar", "must be a text or a number")
    return value


Value = Annotated[
    Any, AfterValidator(_scalar), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "title": "Value"})
]
"""A value of a column; whether it is of the column's kind is checked where the columns are known."""

Values = Annotated[list[Value], Field(max_length=MAX_FILTER_VALUES)]
"""A list of values; the first one too many ends the reading."""


class Operators(BaseModel):
    """What a column must hold: all of the operators given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"gte": 5, "lt": 20}, {"not_in": ["war"], "null": False}]},
    )

    lt: Value = Field(None, description="Below this number, or before this text by code point (ISO dates).")
    lte: Value = Field(None, description="As `lt`, or equal.")
    gt: Value = Field(None, description="Above this number, or after this text.")
    gte: Value = Field(None, description="As `gt`, or equal.")
    is_in: Values = Field([], alias="in", description="Any of these values.")
    not_in: Values = Field([], description="None of these values; a missing value is none of them.")
    null: StrictBool = Field(default=False, description="true: the value is missing; false: it is there.")


FORMS = ("(value)", "(list)", "(operators)")
"""Forms that a column's wish may have; in an error's path they are left out."""


def _form(wanted: Any) -> str:
    match wanted:
        case dict() | Operators():
            return "(operators)"
        case list():
            return "(list)"
    return "(value)"


Wish = Annotated[
    Annotated[Value, Tag("(value)")] | Annotated[Values, Tag("(list)")] | Annotated[Operators, Tag("(operators)")],
    Discriminator(_form),
]
"""What a column must hold; one form is tried, the one it has, so that an error is of that form alone."""


def plain_filter(wishes: Mapping[str, Any]) -> Filter:
    """Return a filter as the library takes it.

    Args:
        wishes: Column → a `Wish`.
    """
    return {
        name: wish.model_dump(by_alias=True, exclude_unset=True) if isinstance(wish, Operators) else wish
        for name, wish in wishes.items()
    }
