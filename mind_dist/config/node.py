"""Where a node keeps what its processes share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the node for files that can be made anew.

    `MIND_DIST_CACHE`, or `mind_dist` among the user's caches (`XDG_CACHE_HOME`, `~/.cache`).
    """
    if named := environment.get("MIND_DIST_CACHE"):
        return Path(named)
    caches = environment.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(caches) / "mind_dist"
