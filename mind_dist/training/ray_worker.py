"""One Ray Train worker: opens its share, iterates the loop, saves, and tells the driver how far it is.

Saving, in this order: 1. all ranks stop at the same step · 2. each writes its shard of the rows and the histories of
its partitions · 3. rank 0 gathers names and digests and writes the manifest · 4. it records the version, deletes those
that are too many, and Ray is told the metrics · 5. only then positions are committed, for those who watch the lag. A
crash in between leaves the version before. A group of workers, the first or a replacement, goes on from the newest
version that is whole. A fault on one worker is raised by all: each learns of it at its next collective.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import torch
from ray import train as ray_train
from ray.train import torch as ray_torch
from torch import distributed

from mind_dist.checkpoint import ModelVersion
from mind_dist.data.codec import PoisonGate
from mind_dist.data.event_sequences import EventExamples
from mind_dist.data.kafka import KafkaDeadLetters, KafkaSource
from mind_dist.data.kafka import num_partitions as num_partitions_of
from mind_dist.data.parquet import PreparedDataset
from mind_dist.data.placement import Placement
from mind_dist.data.sequences import ExampleSource, ParquetExamples
from mind_dist.errors import MindDistError
from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank, failing_together
from mind_dist.training.loop import StepReport
from mind_dist.training.moved_histories import saved_histories, saved_positions
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Deal, Fallback, TrainProgress
from mind_dist.training.settings import TrainSettings, source_name
from mind_dist.training.topic_growth import Stage

logger = logging.getLogger(__name__)

_REPORT_EVERY_STEPS = 100
"""Steps between metrics reported to Ray: a report is a barrier."""

_TELL_EVERY_S = 0.5
"""Time between two words to the driver."""

_IDLE_S = 0.1
"""Pause after a step for which no rank had an event."""


def train_worker(loop: dict[str, Any]) -> None:
    """Train this worker's partitions; what Ray Train runs on every worker.

    Args:
        loop: `settings`: TrainSettings; `bootstrap`: brokers; `monitor`: handle of a RunMonitor; `stage`: which records of
            a topic to train; `drain`: whether to save what was read even where it held nothing to train on.
    """
    settings: TrainSettings = loop["settings"]
    logging.getLogger().setLevel(logging.WARNING)  # below it, Ray writes a line for every report of every worker
    device = ray_torch.get_device()
    parallel = distributed.is_initialized() and distributed.get_world_size() > 1
    ranks: Collectives = ProcessGroup(device) if parallel else SingleRank()
    with failing_together(ranks):
        _train(settings, loop, ranks, device)


def _train(settings: TrainSettings, loop: dict[str, Any], ranks: Collectives, device: torch.device) -> None:
    saved = _saved_version(settings, ranks, loop["monitor"])
    teller = _Teller(loop["monitor"], ranks.rank)
    run = open_run(
        settings,
        loop["bootstrap"],
        saved,
        ranks,
        device,
        stage=loop["stage"],
        should_stop=teller.should_stop,
    )
    teller.num_steps = run.num_steps()
    _tell_deal(run.examples, ranks, loop["monitor"])
    saved_step = run.step
    for report in run.steps(teller.should_stop):
        teller.add(report)
        every = settings.training.checkpoint_every_steps
        if report.num_examples and every and report.step % every == 0:
            _save(run, settings, ranks)
            saved_step = report.step
        elif report.num_examples and report.step % _REPORT_EVERY_STEPS == 0:
            _report(_metrics(report), ranks)
        elif not report.num_examples:
            time.sleep(_IDLE_S)  # no rank has an event at hand; while one has, the others never wait
    if run.step == saved_step and loop["drain"] and _has_moved(run, saved, ranks):
        run.step += 1  # a version is never written over another
    if run.step > saved_step:
        _save(run, settings, ranks)
    run.examples.close()


def _tell_deal(examples: ExampleSource, ranks: Collectives, monitor: Any) -> None:
    """Tell the driver what each worker has to train. Collective."""
    found = ranks.gather_objects((len(examples.partitions), examples.num_examples))
    if ranks.rank == 0:
        partitions, counts = zip(*found, strict=True)
        monitor.deal.remote(Deal(partitions, () if None in counts else counts))


def _has_moved(run: TrainingRun, saved: ModelVersion | None, ranks: Collectives) -> bool:
    """Tell whether any rank has read further than the saved version. Collective."""
    before = saved.manifest.positions if saved else {}
    moved = any(before.get(partition) != position for partition, position in run.examples.positions().items())
    return bool(ranks.sum([moved])[0])


def open_run(
    settings: TrainSettings,
    bootstrap: str,
    saved: ModelVersion | None,
    ranks: Collectives,
    device: torch.device,
    *,
    stage: Stage | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingRun:
    """Return this rank's part of the run, where a saved version stands, or at its beginning.

    Args:
        settings: The run.
        bootstrap: Addresses of brokers.
        saved: Where to go on.
        ranks: The other ranks.
        device: Where to compute.
        stage: Which records of a topic to train; None for all that there are.
        should_stop: Asked while waiting for events.
    """
    dataset = PreparedDataset.open(settings.dataset)
    from_kafka = settings.source == "kafka"
    if from_kafka:
        examples = _open_log(settings, bootstrap, dataset, saved, ranks, stage=stage, should_stop=should_stop)
    else:
        examples = _open_dataset(settings, dataset, saved, ranks)
    run = TrainingRun(
        examples,
        dataset,
        settings.model,
        settings.training,
        source=source_name(settings),
        observe=from_kafka,
        collectives=ranks,
        device=device,
    )
    if saved:
        run.resume(saved)
    elif settings.init_from:
        run.start_from(ModelVersion.open(settings.init_from))
    return run


def _open_dataset(
    settings: TrainSettings, dataset: PreparedDataset, saved: ModelVersion | None, ranks: Collectives
) -> ExampleSource:
    config = settings.training
    return ParquetExamples(
        dataset,
        _share(dataset.manifest.num_buckets, ranks),
        max_behaviors=config.max_behaviors,
        num_targets=config.num_targets,
        window_stride=config.stride,
        epochs=config.epochs,
        seed=config.seed,
        positions=saved.manifest.positions if saved else None,
    )


def _open_log(
    settings: TrainSettings,
    bootstrap: str,
    dataset: PreparedDataset,
    saved: ModelVersion | None,
    ranks: Collectives,
    *,
    stage: Stage | None,
    should_stop: Callable[[], bool],
) -> ExampleSource:
    kafka, max_behaviors = settings.kafka, settings.training.max_behaviors
    count_now = partial(num_partitions_of, bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s)
    stage = stage or Stage(count_now())
    count = stage.num_partitions
    partitions = _share(count, ranks)
    return EventExamples(
        lambda partition: KafkaSource(bootstrap, kafka, settings.group, partitions=[partition]),
        partitions,
        dataset.manifest.id_type,
        KafkaDeadLetters(bootstrap, kafka),
        PoisonGate(kafka.max_poison_fraction, kafka.poison_window),
        max_behaviors=max_behaviors,
        max_clock_skew_ms=kafka.max_clock_skew_ms,
        event_types=dataset.manifest.event_types,
        profiles=dataset.profiles(),
        num_profile_features=len(dataset.manifest.profile_features),
        positions=saved_positions(saved, count) if saved else None,
        histories=saved_histories(saved, kafka.topic, partitions, count, max_behaviors) if saved else None,
        follow=settings.follow,
        topic=kafka.topic,
        placement=Placement(count, count_now, saved.manifest.part_trained if saved else {}, until_ms=stage.until_ms),
        should_stop=should_stop,
    )


def _share(count: int, ranks: Collectives) -> list[int]:
    """Return the partitions that are dealt to this rank."""
    return list(range(ranks.rank, count, ranks.world_size))


def _saved_version(settings: TrainSettings, ranks: Collectives, monitor: Any) -> ModelVersion | None:
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


def _save(run: TrainingRun, settings: TrainSettings, ranks: Collectives) -> None:
    """Save in the five steps of this module's first lines; this function has the last two."""
    versions = settings.versions
    if ranks.rank == 0:
        versions.clear(run.step)
    ranks.gather_objects(None)  # no rank may write before the leftovers are deleted
    manifest = run.save(versions.place(run.step))
    if ranks.rank == 0:
        versions.keep(run.step, settings.num_to_keep)
    _report({**manifest.metrics, "step": manifest.step}, ranks)
    try:
        run.commit()
    except MindDistError as error:  # the version is stored, and these positions are for lag monitors alone
        logger.warning("positions are not shown to lag monitors", extra={"fields": {"error": error}})


def _report(metrics: dict[str, float], ranks: Collectives) -> None:
    """Tell Ray metrics: a barrier of its own, before which all ranks see that all are well."""
    ranks.sum([])
    ray_train.report(metrics)


def _metrics(report: StepReport) -> dict[str, float]:
    return {"step": report.step, "loss": report.loss, "learning_rate": report.learning_rate}


class _Teller:
    """A rank's line to the driver, which tells each of them when to stop: never waits for it.

    Args:
        monitor: Handle of the RunMonitor.
        rank: This rank; the first one tells how far the run is.

    Attributes:
        num_steps: Where the run will end, None where that is not known.
    """

    def __init__(self, monitor: Any, rank: int) -> None:
        self.num_steps: int | None = None
        self._monitor = monitor
        self._rank = rank
        self._progress: TrainProgress | None = None
        self._num_examples = 0
        self._told_s = time.monotonic()
        self._answer: Any = None
        self._stopping = False

    def add(self, report: StepReport) -> None:
        """Take note of a step."""
        if report.num_examples and self._rank == 0:
            self._num_examples += report.num_examples
            self._progress = TrainProgress(report.step, self.num_steps, report.loss, 0.0)

    def should_stop(self) -> bool:
        """Tell the driver how far the run is, if it is time; return whether it has asked to stop."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping = self._stopping or ray.get(self._answer)
            self._answer = None
        elapsed_s = time.monotonic() - self._told_s
        if self._answer is None and elapsed_s >= _TELL_EVERY_S:
            rate = self._num_examples / elapsed_s
            progress = self._progress and dataclasses.replace(self._progress, examples_per_s=rate)
            self._answer = self._monitor.tell.remote(progress)
            self._told_s, self._num_examples = time.monotonic(), 0
        return self._stopping
