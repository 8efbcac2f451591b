"""Shapes are checked in tests and free in production: jaxtyping's import hook, with beartype, over the model."""

from jaxtyping import install_import_hook

install_import_hook("mind_dist.model", "beartype.beartype")

pytest_plugins = ["tests.services"]
