"""Training through Ray Train where the newest version is damaged: it goes on from the one before, to the same end."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses
from mind_dist.errors import ConfigError, VersionError
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import TrainProgress
from mind_dist.training.settings import TrainResult, TrainSettings
from tests.toy_training import MODEL, TRAINING, write_dataset

LONG = dataclasses.replace(TRAINING, epochs=40, checkpoint_every_steps=20, lr_decay=False)
"""Some seconds of steps and saves, which a run that is to end earlier begins in the same way."""

STOPPED_AT = 50
"""A run that ends here has saved at 20, 40 and 50, and kept the last two."""

Damage = Callable[[Path], object]


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    path = tmp_path_factory.mktemp("damaged")
    uri = write_dataset(path / "dataset")
    return TrainSettings(dataset=uri, storage=str(path / "runs"), model=MODEL, training=LONG, workers=1)


def train(settings: TrainSettings, name: str, **changes: object) -> TrainResult:
    return train_on_ray(dataclasses.replace(settings, name=name, **changes), Addresses())  # type: ignore[arg-type]


def stopped_run(settings: TrainSettings, name: str) -> Path:
    """Train up to `STOPPED_AT`, in this process, and return the run's directory."""
    result = train(settings, name, training=dataclasses.replace(LONG, max_steps=STOPPED_AT), workers=0)
    assert result.step == STOPPED_AT
    assert result.fell_back_to == ""
    run = Path(settings.storage) / name
    assert sorted(path.name for path in run.glob("checkpoint_*")) == ["checkpoint_00000040", "checkpoint_00000050"]
    return run


@pytest.fixture(scope="module")
def uninterrupted(settings: TrainSettings) -> TrainResult:
    return train(settings, "whole", workers=0)


def cut(name: str) -> Damage:
    return lambda version: (version / name).write_bytes((version / name).read_bytes()[:-7])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "torn": (cut("dense.safetensors"), "dense.safetensors is torn or altered"),
    "manifest-cut": (cut("manifest.json"), "manifest.json is torn"),
    "directory-gone": (shutil.rmtree, "no manifest.json"),
}
"""What is done to a version, and what is said of it."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_run_whose_newest_version_is_damaged_goes_on_from_the_one_before(
    settings: TrainSettings, uninterrupted: TrainResult, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    damage, problem = DAMAGES[name]
    run = stopped_run(settings, name)
    damage(run / "checkpoint_00000050")
    logging.getLogger("mind_dist").propagate = True
    result = train(settings, name)
    assert result.fell_back_to == str(run / "checkpoint_00000040")
    assert result.step == uninterrupted.step
    assert result.model_version == uninterrupted.model_version, "named by the digests of all parameters and moments"
    positions = ModelVersion.open(result.version_uri).manifest.positions
    assert positions == ModelVersion.open(uninterrupted.version_uri).manifest.positions
    warnings = [record for record in caplog.records if "newer versions are damaged" in record.message]
    assert warnings
    for warning in warnings:  # one for each start of the workers: Ray may replace them on a busy machine
        fields = warning.__dict__["fields"]
        assert fields["version"] == str(run / "checkpoint_00000040")
        assert problem in fields["damaged"]
        assert "checkpoint_00000050" in fields["damaged"]
        assert "\n" not in fields["damaged"]


@pytest.mark.parametrize("damage", [cut("manifest.json"), shutil.rmtree], ids=["cut", "gone"])
def test_a_run_without_a_whole_version_names_all_and_says_what_to_do(settings: TrainSettings, damage: Damage) -> None:
    name = f"none-{'gone' if damage is shutil.rmtree else 'cut'}"
    run = stopped_run(settings, name)
    for step in (40, 50):
        damage(run / f"checkpoint_{step:08d}")
    with pytest.raises(VersionError, match=r"checkpoint_00000050.*checkpoint_00000040.*train under another name"):
        train(settings, name, workers=0)


def test_workers_that_are_replaced_go_on_from_the_version_before_a_damaged_one(
    settings: TrainSettings, uninterrupted: TrainResult
) -> None:
    run = Path(settings.storage) / "replaced"
    damaged: list[Path] = []

    def damage_and_kill(progress: TrainProgress) -> None:
        saved = sorted(run.glob("checkpoint_*/manifest.json"))
        if not damaged and len(saved) == 2 and progress.step > 45:
            (worker,) = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)  # or it would save again meanwhile
            newest = max(run.glob("checkpoint_*/manifest.json")).parent
            damaged.append(newest)
            shutil.rmtree(newest)
            os.kill(worker.pid, signal.SIGKILL)

    longer = dataclasses.replace(settings, name="replaced")
    result = train_on_ray(longer, Addresses(), on_progress=damage_and_kill)
    assert damaged
    before = int(damaged[0].name.rpartition("_")[2]) - 20
    assert result.fell_back_to == str(run / f"checkpoint_{before:08d}")
    assert result.step == uninterrupted.step
    assert result.model_version == uninterrupted.model_version


def test_a_run_whose_list_of_checkpoints_ray_would_refuse_is_started_all_the_same(
    settings: TrainSettings, uninterrupted: TrainResult
) -> None:
    run = stopped_run(settings, "refused")
    (run / "checkpoint_manager_snapshot.json").write_text("{torn")
    result = train(settings, "refused")
    assert (result.model_version, result.fell_back_to) == (uninterrupted.model_version, "")


def test_a_run_does_not_go_on_with_behaviors_of_other_types(settings: TrainSettings, tmp_path: Path) -> None:
    short = dataclasses.replace(LONG, max_steps=2)
    own = dataclasses.replace(settings, dataset=write_dataset(tmp_path / "dataset"), training=short, workers=0)
    train(own, "types")
    manifest = tmp_path / "dataset" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"event_types": []', '"event_types": ["buy"]'))
    with pytest.raises(
        ConfigError, match=r"the dataset's event types: .* was saved with \(\), and now it is \('buy',\)"
    ):
        train(own, "types")
