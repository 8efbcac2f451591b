"""Training through Ray Train where a worker hangs: it is named, and the group is replaced and comes to the same."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from mind_dist.config import Addresses
from mind_dist.errors import TrainingError
from mind_dist.training import ray_trainer
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import TrainProgress
from mind_dist.training.settings import TrainSettings
from tests.forked import state_of
from tests.hanging_users import HANGS, open_hanging_users
from tests.toy_training import MODEL, TRAINING, write_dataset

LONG = dataclasses.replace(TRAINING, epochs=20, checkpoint_every_steps=20)


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    uri = write_dataset(tmp_path / "dataset")
    return TrainSettings(dataset=uri, storage=str(tmp_path / "runs"), model=MODEL, training=LONG)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "5")


def freeze_once(after_step: int, frozen: list[int]) -> Callable[[TrainProgress], None]:
    """Return what freezes one worker's process, and keeps its id."""

    def freeze(progress: TrainProgress) -> None:
        if progress.step > after_step and not frozen:
            workers = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
            assert workers[0].pid is not None
            os.kill(workers[0].pid, signal.SIGSTOP)
            frozen.append(workers[0].pid)

    return freeze


def wait_for_end(pid: int) -> None:
    give_up_s = time.monotonic() + 60
    while state_of(pid) not in {"", "Z"}:
        assert time.monotonic() < give_up_s, f"process {pid} is {state_of(pid)}"
        time.sleep(0.1)


def test_a_worker_that_hangs_is_named_with_its_step_and_replaced_and_changes_nothing(
    settings: TrainSettings, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mind_dist").propagate = True
    whole = train_on_ray(dataclasses.replace(settings, name="whole"), Addresses())
    frozen: list[int] = []
    run = dataclasses.replace(settings, name="frozen")
    result = train_on_ray(run, Addresses(), on_progress=freeze_once(25, frozen))
    assert result.model_version == whole.model_version, "named by the digests of all parameters and moments"
    [failed] = [record for record in caplog.records if record.message == "a group of workers has failed"]
    named = (
        rf"worker [01] of 2 \(process {frozen[0]} at .*\) hangs at step [0-9]+: nothing was heard of it for [0-9]+ s"
    )
    assert re.fullmatch(named, failed.__dict__["fields"]["why"])
    wait_for_end(frozen[0])


def test_the_error_of_a_run_that_gives_up_names_the_worker_that_hangs(settings: TrainSettings) -> None:
    frozen: list[int] = []
    with pytest.raises(TrainingError, match=r"worker [01] of 2 \(process .*\) hangs at step [0-9]+: nothing was heard"):
        train_on_ray(dataclasses.replace(settings, max_failures=0), Addresses(), on_progress=freeze_once(5, frozen))
    wait_for_end(frozen[0])


def test_a_worker_whose_training_hangs_while_its_process_answers_is_named(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_trainer, "_COLLECTIVE_TIMEOUT_S", 20)
    run = dataclasses.replace(settings, max_failures=0, eval_every=10)
    with pytest.raises(TrainingError, match=rf"worker {HANGS} of 2 .* hangs at step 10: the others have waited for it"):
        train_on_ray(run, Addresses(), open_valid_users=open_hanging_users)
