"""Valid users watch a run: they name its best version and say when it is over, the same after a crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mind_dist.checkpoint import ModelVersion, WatchState
from mind_dist.config import TrainingConfig, WatchConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation import evaluate_version
from mind_dist.evaluation.valid_users import ValidUsers, open_valid_users
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.storage import Directory
from mind_dist.training.collectives import SingleRank
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import RECALL, RECALL_REMOVED, Look
from mind_dist.training.schedule import Cycle, Cycles
from mind_dist.training.watching import MOST_CYCLES, Watch, taken
from tests.toy_quality import write_quality_dataset
from tests.toy_training import MODEL, TRAINING

NUM_VALID = 40
EPOCHS = 1 << MOST_CYCLES
CONFIG = dataclasses.replace(TRAINING, epochs=0, batch_size=64, learning_rate=0.03)
PROFILELESS = dataclasses.replace(MODEL, num_profile_features=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_quality_dataset(tmp_path_factory.mktemp("dataset"), num_valid=NUM_VALID)


@pytest.fixture(scope="module")
def users(dataset: PreparedDataset) -> ValidUsers:
    return open_valid_users(dataset, 1000)


def opened(
    dataset: PreparedDataset, version: ModelVersion | None = None, config: TrainingConfig = CONFIG
) -> TrainingRun:
    buckets, positions = range(dataset.manifest.num_buckets), version.manifest.positions if version else None
    examples = ParquetExamples.of(
        dataset, buckets, PROFILELESS, config, epochs=config.epochs or EPOCHS, positions=positions
    )
    run = TrainingRun(examples, dataset, PROFILELESS, config, source="toy")
    if version is not None:
        run.resume(version)
    elif not config.epochs:
        run.choose_length(EPOCHS)
    return run


def looks(run: TrainingRun, users: ValidUsers, config: WatchConfig | None = None, every: int = 0) -> Iterator[Look]:
    """Train and look until the run ends or is over."""
    watch = Watch(run, users, config or WatchConfig(), every, SingleRank())
    for _ in run.steps():
        if watch.is_due():
            yield watch.look()
        if watch.is_over:
            return


def test_the_rate_falls_to_zero_in_cycles_of_double_length() -> None:
    rate = Cycles(10).learning_rate(0.5)
    for start, end in ((0, 10), (10, 30), (30, 70)):
        of_cycle = [rate(step) for step in range(start, end)]
        np.testing.assert_allclose(of_cycle, 0.5 * (1 - np.arange(end - start) / (end - start)))


def test_a_bound_ends_the_last_cycle_where_the_run_ends() -> None:
    cycles = Cycles(10, bound=40)
    assert cycles.of(29) == Cycle(10, 30)
    assert cycles.of(35) == Cycle(30, 40)
    assert cycles.learning_rate(1.0)(39) == pytest.approx(0.1)
    assert Cycles(100, bound=5).of(0) == Cycle(0, 5)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
def test_a_cycle_is_looked_at_four_times_and_at_its_end(length: int) -> None:
    quarters = Cycle(30, 30 + length).quarters
    assert max(quarters) == 30 + length
    assert min(quarters) > 30
    assert len(quarters) == min(4, length)


def after(*recalls: float, patience: int = 1) -> list[WatchState]:
    """Return what is known after cycles that ended with these recalls."""
    state, states = WatchState(first_cycle=10), []
    for number, recall in enumerate(recalls):
        cycle = Cycle(10 * ((1 << number) - 1), 10 * ((2 << number) - 1))
        look = Look(cycle.end, recall, recall, recall > state.best, 0.1)
        state = taken(state, look, WatchConfig(min_gain=0.01, patience=patience), cycle)
        states.append(state)
    return states


def test_a_run_is_over_when_a_cycle_has_not_added_enough() -> None:
    assert [state.is_over for state in after(0.1, 0.2, 0.201)] == [False, False, True]
    assert after(0.1, 0.2, 0.201)[-1].best_step == 70
    assert after(0.1, 0.2, 0.15)[-1].best_step == 30
    assert [state.is_over for state in after(0.1, 0.2, 0.201, 0.3, 0.2, 0.2, patience=2)] == [*[False] * 5, True]


def test_a_model_that_finds_nothing_yet_is_trained_on() -> None:
    assert not after(0.0, 0.0, 0.0)[-1].is_over
    assert after(*[0.0] * MOST_CYCLES)[-1].is_over, "but not for ever"


def test_what_is_seen_within_a_cycle_counts_at_its_end() -> None:
    state = after(0.1)[-1]
    state = taken(state, Look(15, 0.5, 0.5, is_best=True, took_s=0.1), WatchConfig(), None)
    assert (state.best_step, state.is_over, state.before) == (15, False, 0.1)
    state = taken(state, Look(30, 0.4, 0.4, is_best=False, took_s=0.1), WatchConfig(), Cycle(10, 30))
    assert (state.best_step, state.is_over, state.before) == (15, False, 0.5)


def test_a_look_is_what_the_evaluation_of_the_saved_version_says(
    dataset: PreparedDataset, users: ValidUsers, tmp_path: Path
) -> None:
    run = opened(dataset)
    first = next(looks(run, users))
    run.save(Directory.at(tmp_path))
    report = evaluate_version(dataset, InterestEncoder.load(str(tmp_path)), "valid")
    assert first.recall == pytest.approx(report.metrics["model"]["recall@50"])
    assert first.recall_removed == pytest.approx(report.metrics["model"]["recall@50_removed"])
    metrics = ModelVersion.open(str(tmp_path)).manifest.metrics
    assert (metrics[RECALL], metrics[RECALL_REMOVED]) == (first.recall, first.recall_removed)


def test_the_parts_of_the_users_make_up_all_of_them(dataset: PreparedDataset, users: ValidUsers) -> None:
    version = opened(dataset).unsaved()
    parts = np.array([users.recall_sums(version, part, 3) for part in range(3)])
    np.testing.assert_allclose(parts.sum(axis=0), users.recall_sums(version, 0, 1))
    assert parts[:, 2].tolist() == [14, 13, 13]
    assert users.recall_sums(version, 50, 51) == (0.0, 0.0, 0)


def test_a_run_chooses_its_length_and_names_its_best_version(dataset: PreparedDataset, users: ValidUsers) -> None:
    run = opened(dataset)
    found = list(looks(run, users))
    best = max(found, key=lambda look: look.recall + look.recall_removed)
    assert run.watch.is_over
    assert run.watch.best_step == best.step
    assert [look.step for look in found if look.is_best][-1] == best.step
    cycle = Cycles(run.watch.first_cycle).of(run.step - 1)
    assert run.step == cycle.end, "a run ends with a cycle"
    assert cycle.start > 0


def test_a_run_that_crashed_between_two_looks_comes_to_the_same(
    dataset: PreparedDataset, users: ValidUsers, tmp_path: Path
) -> None:
    whole = opened(dataset)
    expected = [(look.step, look.recall) for look in looks(whole, users)]
    crashed = opened(dataset)
    watch = Watch(crashed, users, WatchConfig(), 0, SingleRank())
    seen: list[tuple[int, float]] = []
    for report in crashed.steps():
        if watch.is_due():
            look = watch.look()
            seen.append((look.step, look.recall))
        if report.step == whole.watch.first_cycle + 2:
            crashed.save(Directory.at(tmp_path / "crashed"))
            break
    resumed = opened(dataset, ModelVersion.open(str(tmp_path / "crashed")))
    seen += [(look.step, look.recall) for look in looks(resumed, users)]
    assert seen == expected
    assert resumed.watch == whole.watch
    for run, name in ((whole, "whole"), (resumed, "resumed")):
        run.save(Directory.at(tmp_path / name))
    versions = [ModelVersion.open(str(tmp_path / name)).manifest for name in ("whole", "resumed")]
    assert versions[0].files == versions[1].files
    assert versions[0].model_version == versions[1].model_version


def test_a_run_of_a_set_length_is_looked_at_eight_times_and_never_over(
    dataset: PreparedDataset, users: ValidUsers
) -> None:
    run = opened(dataset, config=dataclasses.replace(CONFIG, epochs=4))
    end = run.num_steps()
    found = list(looks(run, users))
    assert len(found) == 8
    assert found[-1].step == end == run.step
    assert not run.watch.is_over
    assert run.watch.best_step


def test_looks_can_be_asked_for_at_steps_beside_the_ends_of_cycles(dataset: PreparedDataset, users: ValidUsers) -> None:
    run = opened(dataset)
    steps = [look.step for look in looks(run, users, every=5)]
    ends = {run.watch.first_cycle * ((1 << number) - 1) for number in range(1, MOST_CYCLES)}
    assert all(step % 5 == 0 or step in ends for step in steps)
    assert set(range(5, run.step, 5)) <= set(steps)


def test_valid_users_are_bounded_and_taken_from_all_of_them(dataset: PreparedDataset) -> None:
    few = open_valid_users(dataset, 10)
    everybody = open_valid_users(dataset, 1000)
    assert len(everybody) == NUM_VALID
    assert 5 <= len(few) <= 12
    assert len(open_valid_users(write_train_only(dataset), 10)) == 0


def write_train_only(dataset: PreparedDataset) -> PreparedDataset:
    return dataclasses.replace(dataset, manifest=dataclasses.replace(dataset.manifest, num_users={"train": 60}))
