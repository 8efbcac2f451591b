"""JSON values, JSON and TOML files ↔ settings."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mind_dist.errors import ConfigError
from mind_dist.strict_json import from_json

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
        names, section = _place(kind, first["loc"])
        raise ConfigError(".".join([where, *names]), _problem(first, section)) from error


def _problem(error: ErrorDetails, section: Any) -> str:
    """Return what is wrong with a value, in a section of some type."""
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "unknown setting" + _known_settings(section)
        case "union_tag_not_found":
            return f"kind is missing: one of {', '.join(map(str, kinds_of(section)))}"
        case "union_tag_invalid":
            return f"kind must be one of {', '.join(map(str, kinds_of(section)))}"
    return error["msg"].removeprefix("Value error, ")


def _place(kind: Any, path: Sequence[int | str]) -> tuple[list[str], Any]:
    """Return the dotted names of a path below a config, and the type of the innermost section on it.

    Of a section that has several kinds, pydantic's path names the kind, too; the dotted names do not.
    """
    names, section = [], kind
    for at, name in enumerate(path):
        kinds = kinds_of(kind)
        if kinds:
            kind = kinds.get(name)
        else:
            names.append(str(name))
            kind = _inner(kind, name)
        if at < len(path) - 1 or kinds_of(kind):
            section = kind
    return names, section


def _inner(kind: Any, name: int | str) -> Any:
    """Return the type of a setting of a section, or of an element of a list; None where it is not known."""
    if isinstance(name, int):
        return next(iter(get_args(kind)), None)
    return get_type_hints(kind, include_extras=True).get(name) if dataclasses.is_dataclass(kind) else None


def kinds_of(section: Any) -> dict[int | str, Any]:
    """Return the types of a section that has several kinds, by their names; none for another type."""
    inside = get_args(section)[0] if get_origin(section) is Annotated else section
    members = get_args(inside) if get_origin(inside) in {Union, UnionType} else ()
    hints = [get_type_hints(each) if dataclasses.is_dataclass(each) else {} for each in members]
    return {get_args(hint["kind"])[0]: each for hint, each in zip(hints, members, strict=True) if "kind" in hint}


def with_kind(kind: type[C], config: C, path: Sequence[str], chosen: str) -> C:
    """Return a config with a section of another kind, and of that kind's defaults, at a path.

    Nothing is checked: other settings may still have to follow.

    Raises:
        ConfigError: The section has no such kind.
        KeyError: There is no section of several kinds at the path.
    """
    name, *rest = path
    section = get_type_hints(kind, include_extras=True)[name]
    kinds, own = kinds_of(section), getattr(config, name)
    if rest:
        changed = with_kind(section, own, rest, chosen)
    elif not kinds:
        raise KeyError(name)
    elif chosen not in kinds:
        raise ConfigError(f"{name}.kind", f"{chosen!r} is none; there are {', '.join(map(str, kinds))}")
    else:
        changed = own if own.kind == chosen else kinds[chosen]()
    copied = copy.copy(config)
    object.__setattr__(copied, name, changed)
    return copied


def _known_settings(kind: Any) -> str:
    if not dataclasses.is_dataclass(kind):
        return ""
    names = [field.name for field in dataclasses.fields(kind)]
    kinds = get_args(get_type_hints(kind).get("kind"))
    of_kind = f" of kind {kinds[0]}" if len(kinds) == 1 else ""
    return f"{of_kind}; known here: " + ", ".join(names)


def load(kind: type[C], path: Path) -> C:
    """Read a config from a TOML file, when its name ends with `.toml`, or else from a JSON file.

    Raises:
        ConfigError: The file is missing or not of its format, or its content is not allowed.
    """
    language, read = ("TOML", tomllib.loads) if path.suffix == ".toml" else ("JSON", from_json)
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
