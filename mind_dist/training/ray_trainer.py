"""`TrainSettings` → a trained model version, on Ray Train: the shell around `training.loop`.

The driver checks what can be checked, hands the work to Ray Train, passes on the wish to stop, and shows progress.
State is per partition and item shard, so a run goes on with any number of workers from its newest version that is whole
(`mind_dist.training.run_versions`). The newest versions are kept, since a log's last position counts, and beside them the
best where valid users watched.
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mind_dist.config import Addresses
from mind_dist.errors import MindDistError, StoppedBeforeSaving, TrainingError
from mind_dist.log.kafka_settings import runtime_environment
from mind_dist.training.progressive import AskAhead
from mind_dist.training.ray_callbacks import SaveBeforeRestart, TellFailures
from mind_dist.training.ray_checks import checked
from mind_dist.training.ray_worker import train_worker
from mind_dist.training.run_log import RunLog
from mind_dist.training.run_monitor import Look, RunMonitor, TrainProgress
from mind_dist.training.settings import TrainResult, TrainSettings, source_name
from mind_dist.training.topic_growth import Stage, TopicGrowth, stages
from mind_dist.training.watching import OpenValidUsers

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
"""Time between two looks at the run."""

_COLLECTIVE_TIMEOUT_S = 300
"""A rank that waits this long for another gives up; a save or a slow broker may take minutes."""

_LOOK_FOR_NODES_EVERY_S = 60.0
"""Time between two looks at whether there is room for more workers, or still for all; each change restarts the group."""

_RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how long the end of a run goes unnoticed
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # ten minutes by default
    # Ray learns up to 20 s late that a node is gone, and until then starts groups for which there is no room.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",  # 5 s by default, of the 30 s that some clouds give
}

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
"""glibc keeps up to 256 MB that are free: each step needs again what the last one did, a thousand pages of it and more."""


def train_on_ray(
    settings: TrainSettings,
    addresses: Addresses,
    *,
    on_progress: Callable[[TrainProgress], None] = lambda _progress: None,
    on_look: Callable[[Look], None] = lambda _look: None,
    should_stop: Callable[[], bool] = lambda: False,
    open_valid_users: OpenValidUsers | None = None,
    ask_ahead: AskAhead | None = None,
) -> TrainResult:
    """Train until the data ends, valid users have seen enough, or a stop is asked for. Ray must be connected.

    Args:
        settings: The run.
        addresses: Where Kafka is, and the name of the deployment that trains.
        on_progress: Called from this thread, about twice a second at most.
        on_look: Called after each evaluation by the valid users.
        should_stop: Asked as often; once it is true, the run finishes its step, saves and ends.
        open_valid_users: Who watches the run; None for nobody, and a run of 3 epochs where `training.epochs` is 0.
        ask_ahead: How the events of a topic are asked for before they are trained on; None where they are not.

    Returns:
        The best version where valid users watched, else the newest.

    Raises:
        ConfigError: A setting does not fit the dataset, the version to begin with, or what the run has saved.
        DatasetError: The dataset is missing, torn or empty.
        ServiceUnavailable: The broker did not answer.
        VersionError: The run has saved versions and none is whole, or the version to begin with is torn.
        StoppedBeforeSaving: A stop was asked for before there was anything to save.
        TrainingError: Training failed, `max_failures` replacements included, or there was nothing to train on.
    """
    settings = dataclasses.replace(settings, kafka=settings.kafka.of_deployment(addresses.deployment))
    settings = checked(settings, addresses.kafka)
    for name, value in _RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    fits = _Fits(
        addresses.kafka,
        on_progress,
        on_look,
        should_stop,
        open_valid_users=open_valid_users,
        ask_ahead=ask_ahead,
    )
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
        log: What was told of the run.
        stopped: Whether a stop was asked for.
    """

    def __init__(
        self,
        bootstrap: str,
        on_progress: Callable[[TrainProgress], None],
        on_look: Callable[[Look], None],
        should_stop: Callable[[], bool],
        *,
        open_valid_users: OpenValidUsers | None,
        ask_ahead: AskAhead | None,
    ) -> None:
        self.log = RunLog(on_progress, on_look, may_watch=open_valid_users is not None)
        self.stopped = False
        self._bootstrap = bootstrap
        self._should_stop = should_stop
        self._open_valid_users = open_valid_users
        self._ask_ahead = ask_ahead

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
        # Here, and not where Ray sees fit: workers' nodes may go, and this one goes with the job alone.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        monitor: Any = ray.remote(num_cpus=0)(RunMonitor).options(scheduling_strategy=here).remote()
        loop = {
            "settings": settings,
            "bootstrap": self._bootstrap,
            "monitor": monitor,
            "stage": stage,
            "drain": drain,
            "open_valid_users": self._open_valid_users,
            "ask_ahead": self._ask_ahead,
        }
        fit = _Fit(_trainer(settings, loop))
        fit.start()
        self.log.begin()
        stop_sent = False
        while fit.is_alive():
            fit.join(_LOOK_EVERY_S)
            self.stopped = self.stopped or self._should_stop()
            if not stop_sent and (self.stopped or until()):
                ray.get(monitor.stop.remote())
                stop_sent = True
            self.log.tell(ray.get(monitor.state.remote()), settings)
        self.log.tell(ray.get(monitor.state.remote()), settings)
        fit.raise_failure(self.log.failure)
        return self.stopped


def _trainer(settings: TrainSettings, loop: dict[str, Any]) -> TorchTrainer:
    elastic = (settings.min_workers, settings.workers) if settings.min_workers else settings.workers
    scaling = ScalingConfig(  # type: ignore[call-arg]  # mypy sees that of Train V1
        num_workers=elastic,  # type: ignore[arg-type]
        use_gpu=settings.use_gpu,
        elastic_resize_monitor_interval_s=_LOOK_FOR_NODES_EVERY_S,
    )
    callbacks: Any = [SaveBeforeRestart(loop["monitor"]), TellFailures(loop["monitor"])]  # mypy sees those of Train V1
    return TorchTrainer(
        train_worker,
        train_loop_config=loop,
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=scaling,
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees that of Train V1
            name=settings.name,
            storage_path=settings.storage,
            failure_config=FailureConfig(max_failures=settings.max_failures),
            callbacks=callbacks,
            worker_runtime_env={"env_vars": _ALLOCATOR | runtime_environment().get("env_vars", {})},
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

    def raise_failure(self, told: str) -> None:
        """Raise what ended the run, our own errors as themselves.

        Args:
            told: Why the last group of workers has failed; empty where nobody knows.
        """
        if isinstance(self._failure, TrainingFailedError):
            raise _cause(self._failure, told) from self._failure
        if self._failure is not None:
            raise self._failure


def _cause(failure: TrainingFailedError, told: str) -> MindDistError:
    """Return the error of ours that a worker raised, or a TrainingError with what was told, or the failure's last line."""
    raised = [getattr(error, "_base_exc", error) for error in getattr(failure, "worker_failures", {}).values()]
    for error in raised:
        if isinstance(error, MindDistError):
            return error
    why = told or str(raised[0] if raised else failure).strip().splitlines()[-1]
    return TrainingError(f"the workers failed: {why}; the last checkpoint is kept: start again to go on from it")


def _result(settings: TrainSettings, fits: _Fits) -> TrainResult:
    """Return what the run has come to.

    Raises:
        StoppedBeforeSaving: It has saved nothing, since it was asked to stop.
        TrainingError: It has saved nothing.
        VersionError: Nothing that it saved is whole.
    """
    newest, found = settings.versions.newest_whole().version, settings.versions.best_whole().version
    if (newest is None or found is None) and fits.stopped:
        raise StoppedBeforeSaving(f"run {settings.name!r} was stopped before it had trained anything: nothing is saved")
    if newest is None or found is None:
        raise TrainingError(f"run {settings.name!r} found nothing to train on: {source_name(settings)} has no examples")
    manifest, last_step = found.manifest, newest.manifest.step
    fell_back_to = fits.log.fallback.version_uri if fits.log.fallback else ""
    return TrainResult(found.uri, manifest.model_version, manifest.step, manifest.metrics, last_step, fell_back_to)
