"""Settings → what one worker holds: its share of the examples, and its part of the run where a version stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from mind_dist.checkpoint import ModelVersion
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import ConfigError
from mind_dist.examples.events import EventExamples
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.examples.placement import Placement
from mind_dist.examples.source import ExampleSource
from mind_dist.keys import EventFeatures
from mind_dist.log.codec import PoisonGate
from mind_dist.log.kafka import KafkaDeadLetters, KafkaSource, log_identity
from mind_dist.log.kafka import num_partitions as num_partitions_of
from mind_dist.training.collectives import Collectives
from mind_dist.training.moved_histories import saved_histories, saved_positions
from mind_dist.training.run import TrainingRun
from mind_dist.training.settings import TrainSettings, source_name
from mind_dist.training.topic_growth import Stage
from mind_dist.training.watching import MOST_CYCLES

EPOCHS_IN_CYCLES: int = 1 << MOST_CYCLES
"""Passes over the dataset that are there to be trained where the valid users choose the length: more than will be."""


def open_run(
    settings: TrainSettings,
    bootstrap: str,
    saved: ModelVersion | None,
    ranks: Collectives,
    device: torch.device,
    *,
    stage: Stage | None = None,
    watched: bool = False,
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
        watched: Whether valid users can say how long to train, where `training.epochs` does not.
        should_stop: Asked while waiting for events.

    Raises:
        AnotherLog: The saved version's positions are of another log than the one that is there.
        ConfigError: The saved version's length was chosen by valid users, and there are none any more.
    """
    dataset = PreparedDataset.open(settings.dataset)
    from_kafka, in_cycles = settings.source == "kafka", _in_cycles(settings, saved, watched=watched)
    log, known_until_ms = None, -1
    if from_kafka:
        topic, timeout_s = settings.kafka.topic, settings.kafka.connect_timeout_s
        log = log_identity(bootstrap, topic, timeout_s=timeout_s)
        known_until_ms = saved.manifest.known_until_ms if saved else known_until(settings)
        examples = _open_log(
            settings,
            bootstrap,
            dataset,
            saved,
            ranks,
            known_until_ms=known_until_ms,
            stage=stage,
            should_stop=should_stop,
        )
    else:
        num_epochs = EPOCHS_IN_CYCLES if in_cycles else 0
        examples = _open_dataset(settings, dataset, saved, ranks, num_epochs)
    run = TrainingRun(
        examples,
        dataset,
        settings.model,
        settings.training,
        source=source_name(settings),
        observe=from_kafka,
        log=log,
        known_until_ms=known_until_ms,
        collectives=ranks,
        device=device,
    )
    if saved:
        run.resume(saved)
    elif settings.init_from:
        run.start_from(ModelVersion.open(settings.init_from))
    if in_cycles and not saved:
        run.choose_length(EPOCHS_IN_CYCLES)
    return run


def known_until(settings: TrainSettings) -> int:
    """Return up to when the events of a log were trained on by the version that a new run begins with, −1 for none."""
    if settings.known_until_ms >= 0 or not settings.init_from:
        return settings.known_until_ms
    return ModelVersion.open(settings.init_from, verify=False).manifest.watermark_ms


def _in_cycles(settings: TrainSettings, saved: ModelVersion | None, *, watched: bool) -> bool:
    """Tell whether a run's length is chosen by valid users: as it was when it was begun."""
    if saved is None:
        return watched and settings.source == "parquet" and not settings.training.epochs
    in_cycles = bool(saved.manifest.watch.first_cycle)
    if in_cycles and not watched:
        problem = f"valid users say how long {settings.name!r} is trained, and now none are asked"
        raise ConfigError("eval_every", f"{problem}: give a new run another --name")
    return in_cycles


def _open_dataset(
    settings: TrainSettings,
    dataset: PreparedDataset,
    saved: ModelVersion | None,
    ranks: Collectives,
    num_epochs: int,
) -> ExampleSource:
    return ParquetExamples.of(
        dataset,
        _share(dataset.manifest.num_buckets, ranks),
        settings.model,
        settings.training,
        epochs=num_epochs,
        positions=saved.manifest.positions if saved else None,
    )


def _open_log(
    settings: TrainSettings,
    bootstrap: str,
    dataset: PreparedDataset,
    saved: ModelVersion | None,
    ranks: Collectives,
    *,
    known_until_ms: int,
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
        features=EventFeatures.of(settings.model),
        profiles=dataset.profiles(),
        num_profile_features=len(dataset.manifest.profile_features),
        item_keys=dataset.catalog().keys if dataset.manifest.id_type == "string" else None,
        known_until_ms=known_until_ms,
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
