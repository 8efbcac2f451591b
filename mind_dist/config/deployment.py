"""Names of what a deployment has in places that it shares with others: collections, aliases, consumer groups."""

from __future__ import annotations

import re

MAX_DEPLOYMENT = 64
"""Longest name of a deployment."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_TAKEN = frozenset({"users", "items"})  # collections of the deployment without a name begin with these

ALLOWED = (
    f"letters, digits and single _ between them, beginning with a letter, at most {MAX_DEPLOYMENT} characters, and not "
    f"{' or '.join(sorted(_TAKEN))}; empty for none"
)
"""What a deployment may be called."""


def is_deployment(name: str) -> bool:
    """Tell whether a deployment may be called so.

    The separator is no part of a name, so what begins with one deployment's prefix is that deployment's alone.
    """
    fits = _NAME.fullmatch(name) is not None and len(name) <= MAX_DEPLOYMENT and name not in _TAKEN
    return not name or fits


def prefixed(deployment: str, name: str) -> str:
    """Return what a deployment calls something that it has.

    >>> prefixed("shop", "users"), prefixed("", "users")
    ('shop__users', 'users')
    """
    return f"{deployment}__{name}" if deployment else name
