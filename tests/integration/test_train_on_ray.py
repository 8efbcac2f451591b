"""Training through Ray Train on a real cluster: workers die, are replaced, and nothing is different in the end."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from jobs.train import Train, main
from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses, WatchConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import ConfigError, DatasetError, TrainingError, VersionError
from mind_dist.evaluation.valid_users import open_valid_users
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import RECALL, Look, TrainProgress
from mind_dist.training.run_versions import version_at
from mind_dist.training.settings import TrainResult, TrainSettings
from tests.toy_quality import write_quality_dataset
from tests.toy_training import MODEL, READING, TRAINING, parquet_examples, write_dataset

LONG = dataclasses.replace(TRAINING, epochs=70, checkpoint_every_steps=20)
"""Some seconds of steps and saves: time enough to notice one and kill a worker."""


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    path = tmp_path_factory.mktemp("training")
    uri = write_dataset(path / "dataset", told=True)
    return TrainSettings(dataset=uri, storage=str(path / "runs"), model=READING, training=LONG)


def train(settings: TrainSettings, name: str, **changes: object) -> TrainResult:
    return train_on_ray(dataclasses.replace(settings, name=name, **changes), Addresses())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uninterrupted(settings: TrainSettings) -> TrainResult:
    return train(settings, "whole")


def kill_a_worker() -> None:
    workers = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)


def test_a_worker_that_dies_is_replaced_and_changes_nothing(
    settings: TrainSettings, uninterrupted: TrainResult
) -> None:
    killed_at: list[int] = []

    def kill_once(progress: TrainProgress) -> None:
        if progress.step > 25 and not killed_at:
            killed_at.append(progress.step)
            kill_a_worker()

    result = train_on_ray(dataclasses.replace(settings, name="killed"), Addresses(), on_progress=kill_once)
    assert 25 < killed_at[0] < result.step
    assert result.step == uninterrupted.step
    assert result.model_version == uninterrupted.model_version, "named by the digests of all parameters and moments"


def test_a_version_of_two_workers_is_whole_and_only_the_newest_are_kept(uninterrupted: TrainResult) -> None:
    version = ModelVersion.open(uninterrupted.version_uri)
    assert version.manifest.step == uninterrupted.step
    assert sorted(version.manifest.positions) == [0, 1, 2, 3]
    assert [name for name in version.manifest.files if name.startswith("items/")] == [
        "items/shard-00000-of-00002.parquet",
        "items/shard-00001-of-00002.parquet",
    ]
    runs = Path(uninterrupted.version_uri).parent
    assert len(list(runs.glob("checkpoint_*/manifest.json"))) == 2


def test_a_stopped_run_goes_on_with_any_number_of_workers(settings: TrainSettings) -> None:
    one = dataclasses.replace(settings, name="stopped")
    seen: list[int] = []
    stopped = train_on_ray(
        one,
        Addresses(),
        on_progress=lambda progress: seen.append(progress.step),
        should_stop=lambda: bool(seen) and seen[-1] > 10,
    )
    saved = ModelVersion.open(stopped.version_uri).manifest
    assert saved.step == stopped.step > 10
    finished = train(settings, "stopped", workers=1)
    end = ModelVersion.open(finished.version_uri).manifest
    assert end.step > saved.step
    dataset = PreparedDataset.open(settings.dataset)
    assert end.positions == {p: LONG.epochs * n for p, n in num_windows(dataset).items()}


def num_windows(dataset: PreparedDataset) -> dict[int, int]:
    return {p: parquet_examples(dataset, TRAINING, partitions=[p]).num_examples // TRAINING.epochs for p in range(4)}


def test_a_run_in_this_process_saves_what_it_trained(settings: TrainSettings) -> None:
    short = dataclasses.replace(TRAINING, checkpoint_every_steps=3, max_steps=10)
    result = train(settings, "here", training=short, workers=0)
    version = ModelVersion.open(result.version_uri)
    assert result.step == version.manifest.step == 10
    assert result.metrics == version.manifest.metrics
    assert sum(version.manifest.positions.values()) == 160


def test_a_failure_of_ours_reaches_the_driver_as_itself(settings: TrainSettings) -> None:
    broken = dataclasses.replace(settings.training, learning_rate=1e30)
    with pytest.raises(TrainingError, match="is not finite"):
        train(settings, "broken", training=broken, max_failures=0, workers=1)


def test_settings_of_another_run_are_refused_before_any_worker_starts(
    settings: TrainSettings, uninterrupted: TrainResult, tmp_path: Path
) -> None:
    other = dataclasses.replace(READING, dim=4)
    with pytest.raises(ConfigError, match=r"model\.dim: .*checkpoint_.* was saved with 8, and now it is 4"):
        train(settings, "whole", model=other)
    with pytest.raises(ConfigError, match=r"training\.epochs: .* was saved with 70, and now it is 2"):
        train(settings, "whole", training=TRAINING)
    with pytest.raises(ConfigError, match=r"model\.dim: is 8 in .*, not 4"):
        train(settings, "warm", model=other, init_from=uninterrupted.version_uri)
    with pytest.raises(VersionError):
        train(settings, "warm", init_from=str(tmp_path))
    with pytest.raises(DatasetError):
        train(settings, "no-dataset", dataset=str(tmp_path))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    path = tmp_path_factory.mktemp("watched")
    dataset = write_quality_dataset(path / "dataset", num_valid=40)
    training = dataclasses.replace(TRAINING, epochs=0, batch_size=64)
    return TrainSettings(dataset.directory.uri, str(path / "runs"), model=MODEL, training=training)


def test_valid_users_choose_the_length_and_the_best_version(watched: TrainSettings) -> None:
    looks: list[Look] = []
    settings = dataclasses.replace(watched, name="chosen")
    result = train_on_ray(settings, Addresses(), on_look=looks.append, open_valid_users=open_valid_users)
    newest = settings.versions.newest_whole().version
    assert newest is not None
    assert newest.manifest.watch.is_over
    assert result.last_step == newest.manifest.step == looks[-1].step
    best = [look for look in looks if look.is_best][-1]
    assert (result.step, result.metrics[RECALL]) == (best.step, best.recall)
    assert result.version_uri == version_at(f"{settings.storage}/chosen")
    again = train_on_ray(settings, Addresses(), open_valid_users=open_valid_users)
    assert again == result, "a run that is over has nothing left to do"


def test_a_watched_run_whose_worker_dies_comes_to_the_same(watched: TrainSettings) -> None:
    training = dataclasses.replace(watched.training, checkpoint_every_steps=25)
    settings = dataclasses.replace(watched, training=training, watch=WatchConfig(patience=3))
    results = {}
    for name in ("undisturbed", "killed"):
        looks: list[Look] = []

        def look_on(look: Look, looks: list[Look] = looks, name: str = name) -> None:
            looks.append(look)
            if name == "killed" and len(looks) == 9:
                kill_a_worker()

        run = dataclasses.replace(settings, name=name)
        results[name] = train_on_ray(run, Addresses(), on_look=look_on, open_valid_users=open_valid_users)
    assert results["killed"].model_version == results["undisturbed"].model_version
    assert results["killed"].last_step == results["undisturbed"].last_step


def test_a_run_without_enough_valid_users_has_a_set_length(
    settings: TrainSettings, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mind_dist").propagate = True
    training = dataclasses.replace(TRAINING, epochs=0)
    run = dataclasses.replace(settings, name="unwatched", training=training, workers=0)
    result = train_on_ray(run, Addresses(), open_valid_users=open_valid_users)
    assert result.step == result.last_step
    end = ModelVersion.open(result.version_uri).manifest.positions
    assert end == {p: 3 * n for p, n in num_windows(PreparedDataset.open(settings.dataset)).items()}
    assert "too few valid users to watch the run" in caplog.text


def test_the_job_writes_its_result(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the job's SIGTERM handler would outlive the test
    short = dataclasses.replace(TRAINING, max_steps=2)
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    main(Train(**values | {"name": "job", "training": short, "workers": 0}, output=str(tmp_path / "result.json")))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == json.loads(capsys.readouterr().out)
    assert ModelVersion.open(result["version_uri"]).manifest.model_version == result["model_version"]
