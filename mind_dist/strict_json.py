"""Plain values ↔ JSON as RFC 8259 has it, which knows no `NaN` and no `Infinity`: what every other program reads.

Python writes and reads both; a browser, jq, Go or a warehouse refuses the whole file for one of them.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def to_json(values: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return plain values as JSON: an undefined number is null, an infinite one a text that `parse` reads as a number.

    >>> to_json({"loss": float("nan"), "power": float("inf"), "recall": 0.5})
    '{"loss": null, "power": "Infinity", "recall": 0.5}'
    """
    return json.dumps(_finite(values), indent=indent, sort_keys=sort_keys, allow_nan=False)  # noqa: TID251


def from_json(text: str | bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: It is no JSON, or has `NaN`, `Infinity` or `-Infinity` in it.

    >>> from_json("[NaN]")
    Traceback (most recent call last):
    ValueError: NaN is no JSON
    """
    return json.loads(text, parse_constant=_refuse)  # noqa: TID251


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
