"""Shapes are checked in tests and free in production: jaxtyping's import hook, with beartype, over the model."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks at it when it is imported, before its cluster is there

# A shell has its background jobs ignore Ctrl-C, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook("mind_dist.model", "beartype.beartype")

settings.register_profile("shared machine", deadline=None)  # a busy machine is not a failure
settings.load_profile("shared machine")

pytest_plugins = ["tests.services"]

_GROUPS = {"contracts": "services", "drills": "services", "integration": "ray", "e2e": "ray"}
"""Tests of a group run one after the other in one process, where two run (`make test`): they share what they start."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the group of its folder; the others go to whichever process is free."""
    for item in items:
        group = _GROUPS.get(item.path.relative_to(Path(__file__).parent).parts[0])
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
