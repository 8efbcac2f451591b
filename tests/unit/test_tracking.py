"""Figures of a run in TensorBoard and MLflow, read back by their own readers."""

from __future__ import annotations

import importlib
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.train import Train, open_trackers
from mind_dist.errors import ConfigError
from mind_dist.training.run_monitor import Look, TrainProgress
from mind_dist.training.tracking import TensorBoardTracker, Tracker, tracking


@pytest.fixture
def mlflow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return uri


def tell(trackers: list[Tracker], first: int) -> None:
    with tracking(trackers) as track:
        track.progress(TrainProgress(first, 100, 2.5, 900.0))
        track.progress(TrainProgress(first + 1, 100, 2.4, 900.0))  # too soon after the other
        track.look(Look(first + 5, 0.2, 0.3, is_best=True, took_s=0.1))
        track.look(Look(first + 6, math.nan, 0.4, is_best=False, took_s=0.1))


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    tell(open_trackers(Train("data", "runs", tensorboard=str(tmp_path))), 1)
    tell(open_trackers(Train("data", "runs", tensorboard=str(tmp_path))), 11)
    accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()

    def values(name: str) -> list[tuple[int, float]]:
        return [(each.step, round(each.value, 5)) for each in found.Scalars(name)]

    assert values("loss") == [(1, 2.5), (11, 2.5)]
    assert values("valid_recall@50") == [(6, 0.2), (16, 0.2)]
    assert values("valid_recall@50_removed") == [(6, 0.3), (7, 0.4), (16, 0.3), (17, 0.4)]


def test_mlflow_has_one_run_with_its_settings_however_often_it_goes_on(mlflow_folder: str) -> None:
    for first in (1, 11):
        tell(open_trackers(Train("data", "it's", name="mine", mlflow="shop")), first)
    tell(open_trackers(Train("data", "runs", name="other", mlflow="shop")), 1)
    client: Any = importlib.import_module("mlflow").MlflowClient(mlflow_folder)
    runs = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["mine", "other"]
    run = next(run for run in runs if run.info.run_name == "mine")
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "800"
    assert run.data.params["model.extraction.kind"] == "causal"
    history = client.get_metric_history(run.info.run_id, "valid_recall_at_50")
    assert [(each.step, each.value) for each in history] == [(6, 0.2), (16, 0.2)]


def test_mlflow_shows_a_run_that_failed_as_such(mlflow_folder: str) -> None:
    with pytest.raises(ConfigError), tracking(open_trackers(Train("data", "runs", mlflow="shop"))):
        raise ConfigError("dataset", "gone")
    client: Any = importlib.import_module("mlflow").MlflowClient(mlflow_folder)
    (run,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("extra", ["tensorboard", "mlflow"])
def test_a_missing_package_is_one_line_that_says_what_to_install(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ConfigError, match=rf"{extra} is not installed: pip install 'mind_dist\[{extra}\]'"):
        open_trackers(Train("data", "runs", **{extra: "somewhere"}))  # type: ignore[arg-type]


def test_a_server_that_is_not_there_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match="mlflow"):
        open_trackers(Train("data", "runs", mlflow="shop"))


class Broken:
    """A tracker whose disk is full."""

    def __init__(self) -> None:
        self.num_writes = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.num_writes += 1
        raise OSError(28, f"no space for {values} of step {step}")

    def close(self, *, failed: bool = False) -> None:
        """See `Tracker`."""


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    with caplog.at_level(logging.WARNING):
        tell([broken, TensorBoardTracker(str(tmp_path))], 1)
    assert broken.num_writes == 1
    assert [record.message for record in caplog.records] == ["figures are not tracked any more"]
    assert list(tmp_path.iterdir())
