"""`TrainSettings` → a trained model version, on Ray Train: the shell around `training.loop`.

The driver checks what can be checked, hands the work to Ray Train, passes on the wish to stop, and shows progress.
State is per partition and item shard, so a run goes on with any number of workers from its newest version that is whole
(`mind_dist.training.run_versions`). The newest versions are kept, never the best: a log's last position counts.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses, dump
from mind_dist.data.kafka import ensure_topics, num_partitions
from mind_dist.errors import ConfigError, MindDistError, StoppedBeforeSaving, TrainingError
from mind_dist.storage import Directory
from mind_dist.training.moved_histories import check_partitions
from mind_dist.training.ray_worker import train_worker
from mind_dist.training.resuming import check_resume, differences
from mind_dist.training.run import check_share
from mind_dist.training.run_monitor import Deal, Fallback, RunMonitor, RunState, TrainProgress
from mind_dist.training.settings import TrainResult, TrainSettings, check_dataset, source_name
from mind_dist.training.topic_growth import Stage, TopicGrowth, stages

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
"""Time between two looks at the run."""

_COLLECTIVE_TIMEOUT_S = 300
"""A rank that waits this long for another gives up; a save or a slow broker may take minutes."""

_DEAL_EVENLY = "take as many workers as divide the partitions, or prepare with num_buckets a multiple of the workers"

_RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how long the end of a run goes unnoticed
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # ten minutes by default
}


def train_on_ray(
    settings: TrainSettings,
    addresses: Addresses,
    *,
    on_progress: Callable[[TrainProgress], None] = lambda _progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train until the data ends or a stop is asked for, and return the newest version. Ray must be connected.

    Args:
        settings: The run.
        addresses: Where Kafka is, and the name of the deployment that trains.
        on_progress: Called from this thread, about twice a second at most.
        should_stop: Asked as often; once it is true, the run finishes its step, saves and ends.

    Raises:
        ConfigError: A setting does not fit the dataset, the version to begin with, or what the run has saved.
        DatasetError: The dataset is missing, torn or empty.
        ServiceUnavailable: The broker did not answer.
        VersionError: The run has saved versions and none is whole, or the version to begin with is torn.
        StoppedBeforeSaving: A stop was asked for before there was anything to save.
        TrainingError: Training failed, `max_failures` replacements included, or there was nothing to train on.
    """
    settings = dataclasses.replace(settings, kafka=settings.kafka.of_deployment(addresses.deployment))
    settings = _checked(settings, addresses.kafka)
    for name, value in _RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    fits = _Fits(addresses.kafka, on_progress, should_stop)
    if settings.source == "kafka":
        _train_on_topic(settings, addresses.kafka, fits)
    else:
        fits.run(settings)
    return _result(settings, fits)


def _train_on_topic(settings: TrainSettings, bootstrap: str, fits: _Fits) -> None:
    """Train until the topic's end or a stop; where partitions are added, or were before, go on with all.

    First what was placed among the old number of partitions is trained to their ends, so that a user whose events go on in
    another partition has all those before in the history; then the histories follow their users.
    """
    kafka, opened = settings.kafka, 0
    growth = TopicGrowth(bootstrap, kafka, settings.growth_wait_s)
    while (count := growth.count()) != opened:
        *before, last = stages(bootstrap, kafka, _saved_partitions(settings), count)
        for stage in before:
            if fits.run(dataclasses.replace(settings, follow=False), stage, drain=True):
                return
            fields = (kafka.topic, stage.num_partitions, count)
            logger.info("topic %s has grown from %d to %d partitions: going on with all", *fields)
        if fits.run(settings, last, until=partial(growth.due, count) if settings.follow else lambda: False):
            return
        opened = count


def _saved_partitions(settings: TrainSettings) -> int:
    """Return how many partitions the newest version has positions of, 0 without a version."""
    saved = settings.versions.newest_whole().version
    return len(saved.manifest.positions) if saved else 0


class _Fits:
    """Runs Ray Train once or more for one run, each time going on from its newest version.

    Attributes:
        fallback: The version that workers went on from where newer ones were damaged.
        stopped: Whether a stop was asked for.
    """

    def __init__(
        self, bootstrap: str, on_progress: Callable[[TrainProgress], None], should_stop: Callable[[], bool]
    ) -> None:
        self.fallback: Fallback | None = None
        self.stopped = False
        self._deal: Deal | None = None
        self._bootstrap = bootstrap
        self._on_progress = on_progress
        self._should_stop = should_stop

    def run(
        self,
        settings: TrainSettings,
        stage: Stage | None = None,
        *,
        drain: bool = False,
        until: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train until the data ends, a stop is asked for, or `until` is true; then the step is finished and saved.

        Args:
            settings: The run.
            stage: Which records of a topic to train.
            drain: Save what was read even where it held nothing to train on.
            until: Asked about twice a second.

        Returns:
            Whether a stop was asked for.
        """
        monitor: Any = ray.remote(num_cpus=0)(RunMonitor).remote()
        loop = {
            "settings": settings,
            "bootstrap": self._bootstrap,
            "monitor": monitor,
            "stage": stage,
            "drain": drain,
        }
        fit = _Fit(_trainer(settings, loop))
        fit.start()
        stop_sent = False
        while fit.is_alive():
            fit.join(_LOOK_EVERY_S)
            self.stopped = self.stopped or self._should_stop()
            if not stop_sent and (self.stopped or until()):
                ray.get(monitor.stop.remote())
                stop_sent = True
            self._tell(ray.get(monitor.state.remote()))
        fit.raise_failure()
        return self.stopped

    def _tell(self, state: RunState) -> None:
        """Log what is new and not as it should be, and pass on the progress."""
        if state.fallback not in (None, self.fallback):
            self.fallback = state.fallback
            fields = {"version": state.fallback.version_uri, "damaged": "; ".join(state.fallback.damaged)}
            logger.warning("newer versions are damaged, training goes on from an earlier one", extra={"fields": fields})
        if state.deal not in (None, self._deal):
            self._deal = state.deal
            if warning := state.deal.warning():
                logger.warning(warning, extra={"fields": dataclasses.asdict(state.deal) | {"advice": _DEAL_EVENLY}})
        if state.progress is not None:
            self._on_progress(state.progress)


def _trainer(settings: TrainSettings, loop: dict[str, Any]) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config=loop,
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=settings.use_gpu),
        run_config=RunConfig(
            name=settings.name,
            storage_path=settings.storage,
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )


class _Fit(threading.Thread):
    """`trainer.fit()` in a thread of its own.

    In the main thread it would take over SIGINT and never give it back; and somebody has to watch for a stop.
    """

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._trainer = trainer
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as failure:  # noqa: BLE001 - raised again where the result is asked for
            self._failure = failure

    def raise_failure(self) -> None:
        """Raise what ended the run, our own errors as themselves."""
        if isinstance(self._failure, TrainingFailedError):
            raise _cause(self._failure) from self._failure
        if self._failure is not None:
            raise self._failure


def _cause(failure: TrainingFailedError) -> MindDistError:
    """Return the error of ours that a worker raised, or a TrainingError with the first failure's last line."""
    raised = [getattr(error, "_base_exc", error) for error in getattr(failure, "worker_failures", {}).values()]
    for error in raised:
        if isinstance(error, MindDistError):
            return error
    last_line = str(raised[0] if raised else failure).strip().splitlines()[-1]
    return TrainingError(f"the workers failed: {last_line}; the last checkpoint is kept: start again to go on from it")


def _checked(settings: TrainSettings, bootstrap: str) -> TrainSettings:
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
    if saved is not None:
        from_log = whole.source == "kafka"
        check_resume(saved, model, whole.training, dataset, source_name(whole), from_log=from_log)
    elif whole.init_from:
        before = ModelVersion.open(whole.init_from, verify=False).model_config()
        for setting, of_version, now in differences("model", dump(before), dump(model)):
            raise ConfigError(
                setting, f"is {of_version!r} in {whole.init_from}, not {now!r}: begin with the same model"
            )
    if whole.source == "kafka":
        count = num_partitions(bootstrap, whole.kafka.topic, timeout_s=whole.kafka.connect_timeout_s)
        if saved is not None:
            check_partitions(saved, whole.kafka.topic, count)
        ensure_topics(bootstrap, {whole.kafka.dead_letter_topic: 1}, timeout_s=whole.kafka.connect_timeout_s)
    _warn_of_missing_cpus(whole)
    return whole


def _warn_of_missing_cpus(settings: TrainSettings) -> None:
    wanted = "GPU" if settings.use_gpu else "CPU"
    available = ray.cluster_resources().get(wanted, 0)  # type: ignore[no-untyped-call] # Ray's own
    if available < settings.workers:
        fields = {"workers": settings.workers, "resource": wanted, "available": available}
        logger.warning("the cluster is too small now, training waits until it has grown", extra={"fields": fields})


def _result(settings: TrainSettings, fits: _Fits) -> TrainResult:
    """Return what the run has saved last.

    Raises:
        StoppedBeforeSaving: It has saved nothing, since it was asked to stop.
        TrainingError: It has saved nothing.
        VersionError: Nothing that it saved is whole.
    """
    newest = settings.versions.newest_whole().version
    if newest is None and fits.stopped:
        raise StoppedBeforeSaving(f"run {settings.name!r} was stopped before it had trained anything: nothing is saved")
    if newest is None:
        raise TrainingError(f"run {settings.name!r} found nothing to train on: {source_name(settings)} has no examples")
    manifest = newest.manifest
    fell_back_to = fits.fallback.version_uri if fits.fallback else ""
    return TrainResult(newest.directory.uri, manifest.model_version, manifest.step, manifest.metrics, fell_back_to)
