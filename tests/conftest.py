"""Shapes are checked in tests and free in production: jaxtyping's import hook, with beartype, over the model."""

import os
import signal

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks at it when it is imported, before its cluster is there

# A shell has its background jobs ignore Ctrl-C, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook("mind_dist.model", "beartype.beartype")

settings.register_profile("shared machine", deadline=None)  # a busy machine is not a failure
settings.load_profile("shared machine")

pytest_plugins = ["tests.services"]
