"""The way back to an earlier version."""

from __future__ import annotations

import time
from collections.abc import Callable

from mind_dist.config import PublishConfig
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import VectorStore, VersionInfo
from mind_dist.publishing.catching_up import CatchUp, wait_for_users
from mind_dist.publishing.one_at_a_time import only_publisher


def rollback(
    store: VectorStore,
    model_version: str | None = None,
    config: PublishConfig | None = None,
    *,
    catch_up: CatchUp | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Put readers on an earlier version, once its users' rows are what they should be by now.

    Args:
        store: The index.
        model_version: Where to; None for the one published last before the active one.
        config: How long to wait for the rows, and for a publish that is not heard of; None for the defaults.
        catch_up: Asked once a second until it says yes; None where no users are waited for.
        sleep: Waits in between.

    Returns:
        The version readers are on now.

    Raises:
        PublishError: There is no such version, its rows did not come in time, or a publish is under way: readers stay where
            they are.
    """
    config = config or PublishConfig()
    with only_publisher(store.publish_lock(), config.lease_s, sleep):
        return _roll_back(store, model_version, config, catch_up, sleep)


def _roll_back(
    store: VectorStore,
    model_version: str | None,
    config: PublishConfig,
    catch_up: CatchUp | None,
    sleep: Callable[[float], None],
) -> str:
    active = store.active_version()
    known = {info.model_version: info for info in store.versions()}
    if model_version is None:
        before = [info for info in known.values() if active and info.published_ms < known[active].published_ms]
        if not before:
            raise PublishError(f"there is no version before {active or 'the first one'} to go back to")
        model_version = max(before, key=age).model_version
    if model_version not in known:
        raise PublishError(f"there is no version {model_version}; there are: {', '.join(known) or 'none'}")
    store.load_version(model_version)
    if catch_up is not None and config.wait_for_users and model_version != active:
        store.stage(model_version)
        try:
            wait_for_users(known[model_version], catch_up, config, sleep)
        except BaseException:
            store.stage(None)
            raise
    store.activate(model_version)
    return model_version


def age(info: VersionInfo) -> tuple[int, str]:
    """Return what versions are ordered by, the one published last behind the others."""
    return info.published_ms, info.model_version
