"""A version of a run → a copy of it → readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import PublishConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import LeaseLost, PublishError
from mind_dist.index.vector_store import VectorStore
from mind_dist.publishing.catching_up import CatchUp
from mind_dist.publishing.copies import PublishedCopies
from mind_dist.publishing.one_at_a_time import only_publisher
from mind_dist.publishing.publish import Advance, publish_under
from mind_dist.publishing.report import PublishReport


def publish_from_run(
    store: VectorStore,
    version: ModelVersion,
    copies: PublishedCopies,
    config: PublishConfig | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    catch_up: CatchUp | None = None,
    advance: Advance = lambda _step, _done: None,
    on_block: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishReport:
    """Copy a version, publish the copy, and remove the copies of versions that the index does not have any more.

    All under one lock, so that no publisher removes what another one is copying.

    Args:
        store: The index.
        version: The version; its run may delete it at any time.
        copies: Where its copy is kept.
        config: As for `publish`.
        metrics: As for `publish`.
        catch_up: As for `publish`.
        advance: As for `publish`.
        on_block: Called before each block that is copied; what it raises ends the publish.
        sleep: As for `publish`.

    Raises:
        PublishError: As for `publish`.
        VersionError: The version is missing or altered, as where its run has deleted it meanwhile.
    """
    config = config or PublishConfig()
    model_version = version.manifest.model_version
    with only_publisher(store.publish_lock(), config.lease_s, sleep) as lease:
        if store.active_version() == model_version:
            copies.note_active(model_version)
            return PublishReport(model_version, already_active=True)
        copy = copies.add(version, on_block)
        try:
            report = publish_under(
                lease,
                store,
                InterestEncoder.load(copy.uri),
                copy.uri,
                config,
                metrics=metrics,
                catch_up=catch_up,
                advance=advance,
                sleep=sleep,
            )
        except LeaseLost:
            raise  # the copies are another publisher's by now
        except PublishError:
            copies.keep_only(_known(store))  # or versions that do not pass would pile up
            raise
        copies.note_active(model_version)
        lease.check()
        copies.keep_only(_known(store))
        return report


def _known(store: VectorStore) -> set[str]:
    return {info.model_version for info in store.versions()}
