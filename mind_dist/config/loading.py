"""JSON values, JSON and TOML files ↔ settings."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mind_dist.errors import ConfigError

C = TypeVar("C")


def parse(kind: type[C], values: object, *, where: str = "config") -> C:
    """Build a config from plain JSON values.

    Raises:
        ConfigError: A key is unknown or a value is not allowed; the message has the dotted path.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *(str(part) for part in first["loc"])])
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            problem = "unknown setting" + _known_settings(_section(kind, first["loc"][:-1]))
        raise ConfigError(path, problem) from error


def _section(kind: Any, path: Sequence[int | str]) -> Any:
    """Return the type of the section at a path below a config; None where it is no section of its own."""
    for name in path:
        if isinstance(name, int):
            kind = next(iter(get_args(kind)), None)
        elif dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind).get(name)
        else:
            return None
    return kind


def _known_settings(kind: Any) -> str:
    if not dataclasses.is_dataclass(kind):
        return ""
    return "; known here: " + ", ".join(f.name for f in dataclasses.fields(kind))


def load(kind: type[C], path: Path) -> C:
    """Read a config from a TOML file, when its name ends with `.toml`, or else from a JSON file.

    Raises:
        ConfigError: The file is missing or not of its format, or its content is not allowed.
    """
    language, read = ("TOML", tomllib.loads) if path.suffix == ".toml" else ("JSON", json.loads)
    try:
        values = read(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(str(path.absolute()), f"cannot be read as {language}: {error}") from error
    return parse(kind, values, where=path.name)


def dump(config: object) -> dict[str, Any]:
    """Return a config as plain JSON values that `parse` reads back."""
    values = TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(values, dict)
    return values
