"""How settings are checked: unknown ones are refused, and bad values named."""

from __future__ import annotations

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid")
"""Refuses unknown settings."""


def check(ok: bool, setting: str, allowed: str) -> None:
    """Raise ValueError naming a setting and what is allowed; `parse` and `run` turn it into a ConfigError."""
    if not ok:
        raise ValueError(f"{setting} must be {allowed}")
