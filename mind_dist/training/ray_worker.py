"""One Ray Train worker: iterates the loop, looks at valid users, saves, and tells the driver how far it is.

A group of workers, the first or a replacement, goes on from the newest version that is whole. A fault on one worker is
raised by all: each learns of it at its next collective.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import torch
from ray.train import torch as ray_torch
from torch import distributed

from mind_dist.checkpoint import ModelVersion
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.examples.source import ExampleSource
from mind_dist.keys import EventFeatures
from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank, failing_together
from mind_dist.training.loop import StepReport
from mind_dist.training.open_run import open_run
from mind_dist.training.progressive import AskAhead, ProgressiveValidation
from mind_dist.training.pulse import Activity, pulse_of
from mind_dist.training.ray_saving import report, save, saved_version
from mind_dist.training.ray_teller import Teller
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Deal
from mind_dist.training.settings import TrainSettings
from mind_dist.training.watching import FEWEST_USERS, OpenValidUsers, ValidUsers, Watch

_REPORT_EVERY_STEPS = 100
"""Steps between metrics reported to Ray: a report is a barrier."""

_IDLE_S = 0.1
"""Pause after a step for which no rank had an event."""


def train_worker(loop: dict[str, Any]) -> None:
    """Train this worker's partitions; what Ray Train runs on every worker.

    Args:
        loop: `settings`: TrainSettings; `bootstrap`: brokers; `monitor`: handle of a RunMonitor; `stage`: which records of
            a topic to train; `drain`: whether to save what was read even where it held nothing to train on;
            `open_valid_users`: who watches the run, None for nobody; `ask_ahead`: how events of a topic are asked for before
            they are trained on, None where they are not.
    """
    settings: TrainSettings = loop["settings"]
    logging.getLogger().setLevel(logging.WARNING)  # below it, Ray writes a line for every report of every worker
    device = ray_torch.get_device()
    parallel = distributed.is_initialized() and distributed.get_world_size() > 1
    activity, monitor = Activity(), loop["monitor"]
    ranks: Collectives = ProcessGroup(device, activity) if parallel else SingleRank()
    with failing_together(ranks):
        group, *_ = ranks.gather_objects(uuid.uuid4().hex)
        with pulse_of(activity, group, ranks.rank, ranks.world_size, monitor.hear.remote):
            _train(settings, loop, ranks, device, activity)


def _train(
    settings: TrainSettings, loop: dict[str, Any], ranks: Collectives, device: torch.device, activity: Activity
) -> None:
    monitor, teller = loop["monitor"], Teller(loop["monitor"], ranks.rank, settings.checkpoint_every_s)
    saved = saved_version(settings, ranks, monitor)
    users = _valid_users(settings, loop["open_valid_users"])
    run = open_run(
        settings,
        loop["bootstrap"],
        saved,
        ranks,
        device,
        stage=loop["stage"],
        watched=users is not None,
        should_stop=teller.should_stop,
    )
    watch = None if users is None else Watch(run, users, settings.watch, settings.eval_every, ranks)
    ahead = _ahead(run, settings, loop["ask_ahead"], ranks, teller)
    teller.num_steps = run.num_steps()
    _tell_begin(run.examples, users, ranks, monitor)
    saved_step = activity.step = run.step
    for step in _steps(run, watch, ahead, teller):
        activity.step = step.step
        is_best = False
        if watch is not None and step.num_examples and watch.is_due():
            look = watch.look()
            teller.look(look)
            teller.num_steps = run.num_steps()
            is_best = look.is_best
            report({"step": look.step, **look.metrics}, ranks)
        every = settings.training.checkpoint_every_steps
        if is_best or step.is_save_due or (step.num_examples and every and step.step % every == 0):
            if run.step > saved_step:
                run.metrics |= ahead.metrics if ahead else {}
                save(run, settings, ranks, teller)
                saved_step = run.step
            else:
                teller.saved()  # there is nothing new
        elif step.num_examples and step.step % _REPORT_EVERY_STEPS == 0:
            report(_metrics(step), ranks)
        elif not step.num_examples:
            time.sleep(_IDLE_S)  # no rank has an event at hand; while one has, the others never wait
    if run.step == saved_step and loop["drain"] and _has_moved(run, saved, ranks):
        run.step += 1  # a version is never written over another
    if run.step > saved_step:
        run.metrics |= ahead.metrics if ahead else {}
        save(run, settings, ranks, teller)
    run.examples.close()


def _steps(
    run: TrainingRun, watch: Watch | None, ahead: ProgressiveValidation | None, teller: Teller
) -> Iterator[StepReport]:
    """Yield the run's steps until it ends, or the valid users have seen enough."""
    if watch is not None and watch.is_over:
        return
    look = {"before_step": ahead.before_step} if ahead else {}
    for step in run.steps(teller.should_stop, teller.should_save, **look):
        teller.add(step)
        yield step
        if watch is not None and watch.is_over:
            return


def _ahead(
    run: TrainingRun, settings: TrainSettings, ask: AskAhead | None, ranks: Collectives, teller: Teller
) -> ProgressiveValidation | None:
    """Return what asks for events of a topic before they are trained on; None where nothing is to."""
    if ask is None or settings.source != "kafka" or settings.eval_every < 0:
        return None
    return ProgressiveValidation(run, ask, settings.eval_every, ranks, teller.look)


def _valid_users(settings: TrainSettings, open_valid_users: OpenValidUsers | None) -> ValidUsers | None:
    """Return the users that watch the run; None where nobody is to, or where they are too few to tell anything."""
    if open_valid_users is None or not settings.is_watched:
        return None
    dataset, features = PreparedDataset.open(settings.dataset), EventFeatures.of(settings.model)
    users = open_valid_users(dataset, settings.watch.max_users, features)
    return users if len(users) >= FEWEST_USERS else None


def _tell_begin(examples: ExampleSource, users: ValidUsers | None, ranks: Collectives, monitor: Any) -> None:
    """Tell the driver what each worker has to train, and how many valid users watch. Collective."""
    found = ranks.gather_objects((len(examples.partitions), examples.num_examples))
    if ranks.rank == 0:
        partitions, counts = zip(*found, strict=True)
        monitor.begin.remote(Deal(partitions, () if None in counts else counts), len(users) if users else 0)


def _has_moved(run: TrainingRun, saved: ModelVersion | None, ranks: Collectives) -> bool:
    """Tell whether any rank has read further than the saved version. Collective."""
    before = saved.manifest.positions if saved else {}
    moved = any(before.get(partition) != position for partition, position in run.examples.positions().items())
    return bool(ranks.sum([moved])[0])


def _metrics(step: StepReport) -> dict[str, float]:
    return {"step": step.step, "loss": step.loss, "learning_rate": step.learning_rate}
