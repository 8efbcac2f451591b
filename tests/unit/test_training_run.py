"""Training in this process: it learns, stops with a name for what went wrong, and goes on as if never stopped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mind_dist.checkpoint import ModelVersion
from mind_dist.data.parquet import PreparedDataset
from mind_dist.data.source import InMemoryLog
from mind_dist.errors import TrainingError
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun
from tests.toy_training import TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

Open = Callable[[ModelVersion | None], TrainingRun]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset")))


def from_parquet(dataset: PreparedDataset) -> Open:
    return lambda version: open_run(parquet_examples(dataset, TRAINING, version), dataset, version)


def from_log(dataset: PreparedDataset, log: InMemoryLog) -> Open:
    config = dataclasses.replace(TRAINING, admission_count=2)
    return lambda version: open_run(
        event_examples(log, version, dataset=dataset), dataset, version, observe=True, config=config
    )


@pytest.fixture(params=["parquet", "log"])
def opened(request: pytest.FixtureRequest, dataset: PreparedDataset) -> Open:
    return from_parquet(dataset) if request.param == "parquet" else from_log(dataset, toy_log(poison_every=11))


def save(run: TrainingRun, path: Path) -> ModelVersion:
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


def finish(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    return save(run, path)


def test_resume_after_a_crash_gives_the_same_version_as_an_uninterrupted_run(opened: Open, tmp_path: Path) -> None:
    whole = finish(opened(None), tmp_path / "whole")
    crashed = opened(None)
    saved_at = None
    for report in islice(crashed.steps(), 8):
        if report.step == 5:
            saved_at = save(crashed, tmp_path / "saved")
    resumed = finish(opened(saved_at), tmp_path / "resumed")
    assert resumed.manifest.step == whole.manifest.step > 8
    assert resumed.manifest.positions == whole.manifest.positions
    assert resumed.manifest.watermark_ms == whole.manifest.watermark_ms
    assert resumed.manifest.files == whole.manifest.files, "every parameter, moment, count and history is the same"
    assert resumed.manifest.model_version == whole.manifest.model_version


def test_a_version_names_the_positions_of_the_last_trained_batch(opened: Open, tmp_path: Path) -> None:
    run = opened(None)
    *_, last = islice(run.steps(), 3)
    version = save(run, tmp_path)
    assert version.manifest.positions == last.positions
    assert version.manifest.step == 3
    assert version.manifest.metrics == {"loss": last.loss}
    assert version.manifest.watermark_ms > 0


def test_a_saved_run_that_is_complete_has_nothing_left_to_do(opened: Open, tmp_path: Path) -> None:
    version = finish(opened(None), tmp_path)
    assert not list(opened(version).steps())


def test_training_learns_which_items_belong_together(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, epochs=12)
    losses = [r.loss for r in open_run(parquet_examples(dataset, config), dataset, config=config).steps()]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_learning_rate_falls_to_a_tenth_where_the_length_is_known(dataset: PreparedDataset) -> None:
    decayed = [r.learning_rate for r in from_parquet(dataset)(None).steps()]
    assert decayed[0] == TRAINING.learning_rate
    assert decayed == sorted(decayed, reverse=True)
    assert decayed[-1] == pytest.approx(0.1 * TRAINING.learning_rate, rel=0.9)
    constant = {r.learning_rate for r in from_log(dataset, toy_log())(None).steps()}
    assert constant == {TRAINING.learning_rate}


def test_max_steps_bounds_a_run_over_its_resumes(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINING, max_steps=4)

    def bounded(version: ModelVersion | None) -> TrainingRun:
        return open_run(parquet_examples(dataset, config, version), dataset, version, config=config)

    run = bounded(None)
    assert run.num_steps() == 4
    version = finish(run, tmp_path)
    assert version.manifest.step == 4
    assert not list(bounded(version).steps())


def test_a_stop_ends_the_run_after_the_step_under_way(opened: Open) -> None:
    run = opened(None)
    assert [report.step for report in run.steps(lambda: run.step == 2)] == [1, 2, 3]


def test_a_silent_log_does_nothing_and_can_be_stopped(dataset: PreparedDataset) -> None:
    log = InMemoryLog()
    run = open_run(event_examples(log, dataset=dataset, follow=True), dataset, observe=True)
    silence = iter([False, True])
    reports = list(run.steps(lambda: next(silence)))
    assert [(report.step, report.num_examples) for report in reports] == [(0, 0), (0, 0)]
    assert run.metrics == {}


def test_a_loss_that_is_not_finite_names_step_and_tensor(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = from_parquet(dataset)(None)
    steps = run.steps()
    next(steps)
    version = save(run, tmp_path)
    with torch.no_grad():
        next(run.model.head.parameters())[:] = torch.nan
    with pytest.raises(
        TrainingError, match=r"step 2: the loss is not finite, first in interests; .*checkpoint is kept"
    ):
        next(steps)
    assert ModelVersion.open(version.directory.uri).manifest.step == 1


def test_a_gradient_that_is_not_finite_names_its_parameter(dataset: PreparedDataset) -> None:
    run = from_parquet(dataset)(None)
    run.model.get_parameter("extraction.bilinear").register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match=r"step 1: the gradient is not finite, first in extraction\.bilinear"):
        next(run.steps())


def test_a_warm_start_begins_with_the_parameters_of_a_version(dataset: PreparedDataset, tmp_path: Path) -> None:
    version = finish(from_parquet(dataset)(None), tmp_path / "first")
    run = from_parquet(dataset)(None)
    run.start_from(version)
    before = save(run, tmp_path / "warm")
    assert before.manifest.step == 0
    assert torch.equal(before.dense()["extraction.bilinear"], version.dense()["extraction.bilinear"])
    np.testing.assert_array_equal(before.items().vectors, version.items().vectors)
    first = next(iter(from_parquet(dataset)(None).steps())).loss
    assert next(run.steps()).loss < first


def test_bfloat16_trains_close_to_float32(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, precision="bfloat16")
    rounded = [r.loss for r in open_run(parquet_examples(dataset, config), dataset, config=config).steps()]
    exact = [r.loss for r in from_parquet(dataset)(None).steps()]
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    assert all(math.isfinite(loss) for loss in rounded)


def test_without_logq_the_loss_is_another(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, logq_correction=False)
    plain = next(iter(open_run(parquet_examples(dataset, config), dataset, config=config).steps()))
    assert plain.loss != next(iter(from_parquet(dataset)(None).steps())).loss


def test_items_seen_too_seldom_wait_and_are_learned_by_their_features(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINING, admission_count=1000)
    run = open_run(event_examples(toy_log(), dataset=dataset), dataset, observe=True, config=config)
    losses = [report.loss for report in run.steps()]
    version = save(run, tmp_path)
    assert all(math.isfinite(loss) for loss in losses)
    assert run.table.num_items == 0
    assert not (version.items().counts > 0).any()
    assert set(dataset.catalog().feature_keys) <= set(version.items().keys)
    assert len(version.waiting().keys) > 10


def test_positions_are_committed_only_when_asked(dataset: PreparedDataset) -> None:
    log = toy_log()
    run = open_run(event_examples(log, dataset=dataset), dataset, observe=True)
    (*_, last) = run.steps()
    assert log.stored("training", range(4)) == {}
    run.commit()
    assert log.stored("training", range(4)) == last.positions
