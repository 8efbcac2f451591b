"""A run's state → a version that is stored, and what Ray is told of it.

In this order: 1. all ranks stop at the same step · 2. each writes its shard of the rows and the histories of its
partitions · 3. rank 0 gathers names and digests and writes the manifest · 4. it records the version, deletes those that
are too many, and Ray is told the metrics · 5. only then positions are committed, for those who watch the lag. A crash in
between leaves the version before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray import train as ray_train

from mind_dist.checkpoint import ModelVersion
from mind_dist.errors import MindDistError
from mind_dist.training.collectives import Collectives
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Fallback
from mind_dist.training.settings import TrainSettings

logger = logging.getLogger(__name__)


def saved_version(settings: TrainSettings, ranks: Collectives, monitor: Any) -> ModelVersion | None:
    """Return the newest whole version, which rank 0 finds for all; None before the first save. Collective."""
    uri, *_ = ranks.gather_objects(_newest_whole(settings, monitor) if ranks.rank == 0 else "")
    return ModelVersion.open(uri, verify=False) if uri else None


def _newest_whole(settings: TrainSettings, monitor: Any) -> str:
    """Return the directory of the newest whole version, empty before the first; the driver is told of damaged ones."""
    found = settings.versions.newest_whole()
    if found.version is None:
        return ""
    settings.versions.go_on_from(found.version)
    uri = found.version.directory.uri
    if found.damaged:
        ray.get(monitor.fall_back.remote(Fallback(uri, found.damaged)))
    return uri


def save(run: TrainingRun, settings: TrainSettings, ranks: Collectives) -> None:
    """Save in the five steps of this module's first lines; this function has the last two. Collective."""
    versions = settings.versions
    if ranks.rank == 0:
        versions.clear(run.step)
    ranks.gather_objects(None)  # no rank may write before the leftovers are deleted
    manifest = run.save(versions.place(run.step))
    if ranks.rank == 0:
        versions.keep(run.step, settings.num_to_keep, run.watch.best_step)
    report({**manifest.metrics, "step": manifest.step}, ranks)
    try:
        run.commit()
    except MindDistError as error:  # the version is stored, and these positions are for lag monitors alone
        logger.warning("positions are not shown to lag monitors", extra={"fields": {"error": error}})


def report(metrics: Mapping[str, float], ranks: Collectives) -> None:
    """Tell Ray metrics: a barrier of its own, before which all ranks see that all are well."""
    ranks.sum([])
    ray_train.report(dict(metrics))
