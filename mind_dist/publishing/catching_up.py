"""Waiting until a version has the rows of all users, which the updaters make."""

from __future__ import annotations

import time
from collections.abc import Callable

from mind_dist.config import PublishConfig
from mind_dist.errors import UsersBehind
from mind_dist.index.vector_store import VersionInfo

_CATCH_UP_POLL_S = 1.0

CatchUp = Callable[[VersionInfo], bool]
"""(version): tell whether it has the rows of all users, as of when this was first asked."""


def wait_for_users(
    info: VersionInfo, catch_up: CatchUp, config: PublishConfig, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return when a version has the rows of all users.

    Raises:
        UsersBehind: It has not within `catch_up_s`.
    """
    give_up = time.monotonic() + config.catch_up_s
    while not catch_up(info):
        if time.monotonic() >= give_up:
            waited = f"within {config.catch_up_s:g} s"
            raise UsersBehind(
                f"updaters did not make the rows of {info.model_version} {waited}: is `jobs.serve` running?"
            )
        sleep(_CATCH_UP_POLL_S)
