"""A run's state → a version that is stored, and back: the one to go on from. All ranks together, and without Ray.

In this order: 1. all ranks stop at the same step · 2. each writes its shard of the rows and the histories of its
partitions · 3. rank 0 gathers names and digests and writes the manifest · 4. it records the version and deletes those
that are too many, and whoever watches is told · 5. only then positions are committed, for those who watch the lag. A
crash in between leaves the version before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mind_dist.checkpoint import Manifest, ModelVersion
from mind_dist.errors import MindDistError
from mind_dist.training.collectives import Collectives
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_versions import FoundVersion, RunVersions

logger = logging.getLogger(__name__)


def saved_version(
    versions: RunVersions, ranks: Collectives, tell: Callable[[FoundVersion], object] = lambda _found: None
) -> ModelVersion | None:
    """Return the newest whole version, which rank 0 finds for all; None before the first save. Collective.

    Args:
        versions: The run's versions.
        ranks: The other ranks.
        tell: Told, on rank 0, what was found where newer versions are damaged.
    """
    uri, *_ = ranks.gather_objects(_newest_whole(versions, tell) if ranks.rank == 0 else "")
    return ModelVersion.open(uri, verify=False) if uri else None


def _newest_whole(versions: RunVersions, tell: Callable[[FoundVersion], object]) -> str:
    """Return the directory of the newest whole version, empty before the first."""
    found = versions.newest_whole()
    if found.version is None:
        return ""
    versions.go_on_from(found.version)
    if found.damaged:
        tell(found)
    return found.version.directory.uri


def save(
    run: TrainingRun,
    versions: RunVersions,
    num_to_keep: int,
    ranks: Collectives,
    tell: Callable[[Manifest], object] = lambda _manifest: None,
) -> None:
    """Save in the five steps of this module's first lines. Collective.

    Args:
        run: The run, after a step.
        versions: Where its versions are.
        num_to_keep: Newest versions that are kept.
        ranks: The other ranks.
        tell: Told on every rank what was saved, before positions are committed.
    """
    if ranks.rank == 0:
        versions.clear(run.step)
    ranks.gather_objects(None)  # no rank may write before the leftovers are deleted
    manifest = run.save(versions.place(run.step))
    if ranks.rank == 0:
        versions.keep(run.step, num_to_keep, run.watch.best_step)
    tell(manifest)
    try:
        run.commit()
    except MindDistError as error:  # the version is stored, and these positions are for lag monitors alone
        logger.warning("positions are not shown to lag monitors", extra={"fields": {"error": error}})
