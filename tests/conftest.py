"""Shapes are checked in tests and free in production: jaxtyping's import hook, with beartype, over the model."""

import os
import signal
import tempfile

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

# Two processes run tests, each on a core of its own: threads that wait for each other in turns take four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks at it when it is imported, before its cluster is there

# What processes of a node share of versions goes away with the tests, and is inherited by all that they start.
_cache = tempfile.TemporaryDirectory(prefix="mind-dist-cache-")
os.environ["MIND_DIST_CACHE"] = _cache.name

# A shell has its background jobs ignore Ctrl-C, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook("mind_dist.model", "beartype.beartype")

settings.register_profile("shared machine", deadline=None)  # a busy machine is not a failure
settings.load_profile("shared machine")

pytest_plugins = ["tests.services"]

_TOGETHER = {"contracts": "services", "drills": "services", "e2e": "services", "integration": "ray"}
"""Folders whose tests run one after the other in one process, where two run (`make test`): they share what they start."""


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]  # the library is untyped
    """Hands out folders that share services whole, and all other tests by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _TOGETHER.get(file.split("/")[1], file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFolder:
    """Return who says which process runs what."""
    return ByFolder(config, log)
