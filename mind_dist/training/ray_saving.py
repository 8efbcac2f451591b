"""What Ray and the driver are told of saves, beside `mind_dist.training.saving`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import train as ray_train

from mind_dist.checkpoint import Manifest, ModelVersion
from mind_dist.training import saving
from mind_dist.training.collectives import Collectives
from mind_dist.training.ray_teller import Teller
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Fallback
from mind_dist.training.run_versions import FoundVersion
from mind_dist.training.settings import TrainSettings


def saved_version(settings: TrainSettings, ranks: Collectives, monitor: Any) -> ModelVersion | None:
    """Return the newest whole version; the driver is told of damaged ones. Collective."""

    def tell(found: FoundVersion) -> None:
        assert found.version is not None
        ray.get(monitor.fall_back.remote(Fallback(found.version.directory.uri, found.damaged)))

    return saving.saved_version(settings.versions, ranks, tell)


def save(run: TrainingRun, settings: TrainSettings, ranks: Collectives, teller: Teller) -> None:
    """Save, and tell whoever asked for it, and Ray the metrics. Collective."""

    def tell(manifest: Manifest) -> None:
        teller.saved()  # before the report, which may wait for a controller that waits for this
        report({**manifest.metrics, "step": manifest.step}, ranks)

    saving.save(run, settings.versions, settings.num_to_keep, ranks, tell)


def report(metrics: Mapping[str, float], ranks: Collectives) -> None:
    """Tell Ray metrics: a barrier of its own, before which all ranks see that all are well."""
    ranks.sum([])
    ray_train.report(dict(metrics))
