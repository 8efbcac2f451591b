"""The context of an HTTP request or event: how it is read and documented."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from mind_dist.keys import is_unicode
from mind_dist.limits import MAX_NAME

MAX_CONTEXT = 64
"""Most values of a context."""

LONGEST_TEXT, LONGEST_VALUE = 16_384, 1_024
"""Characters of an id or type, and of a value: a record of the log, with all values of a context, has at most 1 MB."""


def _names(context: Any) -> Any:
    """Check the names first, since those of bad values stand in errors."""
    for name in context if isinstance(context, dict) else ():
        if not is_unicode(name):
            raise PydanticCustomError("name", "must be valid Unicode text")
        if not 0 < len(name) <= MAX_NAME:
            raise PydanticCustomError("name", f"names have at most {MAX_NAME} characters and at least one")
    return context


def _value(value: Any) -> Any:
    if not isinstance(value, str | int):  # a bool is an int
        raise PydanticCustomError("value", "must be a text, an integer or a boolean")
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        raise PydanticCustomError("long", f"must have at most {LONGEST_VALUE:,} characters, not {len(value):,}")
    if isinstance(value, str) and not is_unicode(value):
        raise PydanticCustomError("text", "must be valid Unicode text")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise PydanticCustomError("integer", "must fit 64 bits")
    return value


_JSON = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}], "title": "Value"}

Context = Annotated[
    dict[str, Annotated[Any, AfterValidator(_value), WithJsonSchema(_JSON)]],
    Field(max_length=MAX_CONTEXT),
    BeforeValidator(_names),
]
"""Values by name: texts, integers or booleans."""
