"""What can be said against a run before any worker starts."""

from __future__ import annotations

import dataclasses
import logging

import ray

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import dump
from mind_dist.errors import ConfigError
from mind_dist.log.kafka import ensure_topics, log_identity, num_partitions
from mind_dist.storage import Directory
from mind_dist.training.moved_histories import check_partitions
from mind_dist.training.resuming import check_resume, differences
from mind_dist.training.run_versions import version_at
from mind_dist.training.settings import TrainSettings, check_dataset, source_name
from mind_dist.training.shares import check_share

logger = logging.getLogger(__name__)


def checked(settings: TrainSettings, bootstrap: str) -> TrainSettings:
    """Return the settings made whole: absolute URIs, and the model fitted to the dataset's profile features."""
    dataset = check_dataset(settings)
    model = dataset.manifest.fit(settings.model)
    whole = dataclasses.replace(
        settings,
        dataset=dataset.directory.uri,
        storage=Directory.at(settings.storage).uri,
        init_from=settings.init_from and Directory.at(settings.init_from).uri,
        model=model,
    )
    training = settings.training
    check_share(training.batch_size if settings.source == "kafka" else training.windows_per_step, settings.workers)
    whole.versions.forget_ray()
    saved = whole.versions.newest_whole().version
    if saved is None and whole.init_from:
        whole = dataclasses.replace(whole, init_from=version_at(whole.init_from))
    kafka, count = whole.kafka, 0
    log = None
    if whole.source == "kafka":
        count = num_partitions(bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s)
        log = log_identity(bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s)
    if saved is not None:
        check_resume(saved, model, whole.training, dataset, source_name(whole), from_log=log is not None, log=log)
    elif whole.init_from:
        before = ModelVersion.open(whole.init_from, verify=False).model_config()
        for setting, of_version, now in differences("model", dump(before), dump(model)):
            raise ConfigError(
                setting, f"is {of_version!r} in {whole.init_from}, not {now!r}: begin with the same model"
            )
    if whole.source == "kafka":
        if saved is not None:
            check_partitions(saved, kafka.topic, count)
        ensure_topics(bootstrap, {kafka.dead_letter_topic: 1}, timeout_s=kafka.connect_timeout_s)
    _warn_of_missing_cpus(whole)
    _warn_of_work_to_lose(whole)
    return whole


def _warn_of_missing_cpus(settings: TrainSettings) -> None:
    wanted = "GPU" if settings.use_gpu else "CPU"
    available = ray.cluster_resources().get(wanted, 0)  # type: ignore[no-untyped-call] # Ray's own
    fewest = settings.min_workers or settings.workers
    if available < fewest:
        fields = {"workers": fewest, "resource": wanted, "available": available}
        logger.warning("the cluster is too small now, training waits until it has grown", extra={"fields": fields})


def _warn_of_work_to_lose(settings: TrainSettings) -> None:
    is_saved_at_end_alone = not settings.checkpoint_every_s and not settings.training.checkpoint_every_steps
    if is_saved_at_end_alone and settings.workers and (settings.min_workers or settings.max_failures):
        advice = "set checkpoint_every_s or training.checkpoint_every_steps"
        logger.warning("a lost worker takes all work with it: nothing is saved by time or steps: %s", advice)
