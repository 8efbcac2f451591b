"""Files of Kafka client settings: Java's properties, and TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from mind_dist.errors import ConfigError

_PROPERTY = re.compile(r"([^=:\s]+)\s*[=:]\s*(.*)")
_ESCAPED = re.compile(r"\\(.)")


def read_file(path: Path, variable: str) -> Mapping[str, object]:
    """Return the settings of a file, TOML where its name ends so and properties otherwise.

    Nothing of a line is shown where it cannot be read: a secret may stand there.

    Raises:
        ConfigError: It is not there, or not of its format.
    """
    try:
        text = path.read_text()
        return dict(_flat("", tomllib.loads(text))) if path.suffix == ".toml" else _properties(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line \d+, column \d+", str(error))
        raise ConfigError(variable, f"{path} is no TOML{' ' + place[0] if place else ''}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(variable, f"{path} cannot be read: {error}") from error


def _flat(prefix: str, table: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return the values of a table and of those in it, by dotted names."""
    found: list[tuple[str, object]] = []
    for name, value in table.items():
        found += _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def _properties(text: str) -> dict[str, object]:
    r"""Return name → value of `name=value` and `name: value`; a backslash keeps the character behind it.

    >>> _properties("# of the team\nsasl.mechanism = PLAIN\nsasl.plain.password=a\\\\b=c")
    {'sasl.mechanism': 'PLAIN', 'sasl.plain.password': 'a\\b=c'}
    """
    found: dict[str, object] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.lstrip()
        if not content or content[0] in "#!":
            continue
        pair = _PROPERTY.fullmatch(content)
        if pair is None or (content.endswith("\\") and not content.endswith("\\\\")):
            raise ValueError(f"line {number} is not name=value")
        found[pair[1]] = _ESCAPED.sub(r"\1", pair[2])
    return found
