"""Nonsense in a training job's settings is named before anything starts."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import read_settings
from jobs.train import Train, jobs_by_recipe, shown_progress, with_recipe_of_source
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset, sequences_table, write_manifest
from mind_dist.errors import ConfigError, DatasetError
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.recipes import best, stream
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory
from mind_dist.training.positions import TrainedPositions
from mind_dist.training.ray_trainer import _trainer
from mind_dist.training.run_monitor import Deal, Fallback, Look, RunMonitor, RunState, TrainProgress, Wishes
from mind_dist.training.settings import TrainSettings, check_dataset, source_name
from tests.toy_training import write_dataset

NEEDED = ["--dataset", "data", "--storage", "runs"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--workers", "-1"], "workers must be at least 0"),
        (["--num-to-keep", "1"], "num_to_keep must be at least 2"),
        (["--max-failures", "-1"], "max_failures must be at least 0"),
        (["--min-workers", "3"], "min_workers must be 0, or between 1 and workers"),
        (["--min-workers", "-1"], "min_workers must be 0, or between 1 and workers"),
        (["--workers", "0", "--min-workers", "1"], "min_workers must be 0, or between 1 and workers"),
        (["--checkpoint-every-s", "-1"], "checkpoint_every_s must be 0 or more"),
        (["--name", "../up"], "name must be letters, digits"),
        (["--follow"], "follow must be off unless source is kafka"),
        (["--training.temperature", "0"], "temperature must be above 0"),
        (["--training.batch-size", "0"], "batch_size must be at least 1"),
    ],
)
def test_nonsense_is_refused_by_name(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="2"):
        read_settings(Train, NEEDED + arguments)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--training.every-position"], "training.every_position must be off where events are trained as they come"),
        (["--training.num-targets", "2"], "training.num_targets must be 1 where"),
        (["--training.warm-start", "cooccurrence"], "training.warm_start must be none where"),
        (["--training.window-stride", "5"], "training.window_stride must be 0 where"),
        (["--training.epochs", "2"], "training.epochs must be 0 where"),
        (["--training.lr-decay"], "training.lr_decay must be off, or max_steps set, where"),
        (["--recipe", "best"], "training.every_position must be off where"),
    ],
)
def test_what_a_log_cannot_do_is_refused_by_name(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="2"):
        from_kafka(arguments)
    assert named in capsys.readouterr().err


def test_a_log_is_trained_by_the_recipe_stream_if_no_other_is_named() -> None:
    assert from_kafka([]).training == stream().training
    assert from_kafka([]).model == best().model
    assert from_kafka(["--training.lr-decay", "--training.max-steps", "9"]).training.max_steps == 9


def from_kafka(arguments: list[str]) -> Train:
    given = with_recipe_of_source([*NEEDED, "--source", "kafka", *arguments])
    return read_settings(Train, given, jobs_by_recipe())


def test_a_job_is_its_settings_and_where_the_result_goes() -> None:
    job = from_kafka(["--training.batch-size", "3", "--follow", "--output", "r.json"])
    assert (job.training.batch_size, job.follow, job.output) == (3, True, "r.json")
    assert source_name(job) == "kafka://behavior-events"
    assert job.group == "mind-dist-training-mind"
    shop = dataclasses.replace(job, kafka=job.kafka.of_deployment("shop"))
    assert shop.group == "shop__mind-dist-training-mind"


def test_a_dataset_is_needed_and_must_hold_something_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset: must be the URI of a prepared dataset"):
        check_dataset(TrainSettings(dataset="", storage="runs"))
    uri = write_dataset(tmp_path)
    assert check_dataset(TrainSettings(dataset=uri, storage="runs")).manifest.num_users == {"train": 24}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"train": 24', '"train": 100000'))
    with pytest.raises(DatasetError, match="nothing to train on"):
        check_dataset(TrainSettings(dataset=uri, storage="runs"))


def test_the_monitor_keeps_the_last_progress_and_passes_on_a_stop() -> None:
    monitor, progress = RunMonitor(), TrainProgress(3, 10, 1.5, 200.0)
    assert monitor.state() == RunState()
    assert monitor.tell(progress) == monitor.tell(None) == Wishes()
    assert monitor.state() == RunState(progress)
    fallback = Fallback("runs/mind/checkpoint_00000020", ("checkpoint_00000040: no manifest.json",))
    monitor.fall_back(fallback)
    look = Look(3, 0.3, 0.4, is_best=True, took_s=0.1)
    monitor.begin(Deal((2, 2)), 50)
    monitor.look(look)
    assert monitor.state() == RunState(progress, fallback, Deal((2, 2)), 50, (look,))
    monitor.stop()
    assert monitor.tell(dataclasses.replace(progress, step=4)) == Wishes(stop=True)


def test_the_monitor_passes_on_each_wish_to_save_and_that_it_is_done() -> None:
    monitor = RunMonitor()
    assert monitor.has_saved()
    monitor.ask_to_save("a node goes")
    assert monitor.tell(None) == Wishes(save=1)
    monitor.ask_to_save("and another")
    monitor.saved(1)
    assert not monitor.has_saved()
    assert monitor.tell(None) == Wishes(save=2)
    monitor.saved(2)
    assert monitor.has_saved()
    assert monitor.tell(None) == Wishes(), "a group that begins now has nothing to save"
    assert monitor.state().saves_asked == ("a node goes", "and another")


@pytest.mark.parametrize(("least", "expected"), [(0, 4), (2, (2, 4)), (4, (4, 4))])
def test_ray_is_told_the_fewest_and_the_most_workers(least: int, expected: object) -> None:
    trainer = _trainer(TrainSettings("dataset", "/runs", workers=4, min_workers=least), {"monitor": None})
    assert trainer.scaling_config.num_workers == expected


@pytest.mark.parametrize(
    ("deal", "named"),
    [
        (Deal((12, 12), (1000, 990)), ""),
        (Deal((8, 8, 8)), ""),
        (Deal((4, 3)), "unequal shares"),
        (Deal((2, 2), (1000, 700)), "unequal shares"),
        (Deal((1, 1, 0), (500, 500, 0)), "1 of 3 workers have nothing to train"),
    ],
)
def test_a_deal_that_makes_workers_wait_is_worth_a_warning(deal: Deal, named: str) -> None:
    assert named in deal.warning()
    assert bool(named) == bool(deal.warning())


def test_progress_is_logged_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    logging.getLogger("mind_dist").propagate = True
    with caplog.at_level(logging.INFO, logger="mind_dist"), shown_progress() as show:
        for step in range(5):
            show(TrainProgress(step, 10, 1.5, 200.0))
    assert {record.__dict__["fields"]["step"] for record in caplog.records} == {0}


def test_a_person_sees_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.train.interactive", lambda: True)
    with shown_progress() as show:
        show(TrainProgress(3, 10, 1.5, 200.0))
    assert "step 3  loss 1.500  200 examples/s" in capsys.readouterr().err


def test_items_cannot_be_made_of_features_that_a_dataset_does_not_have(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path)
    training = dataclasses.replace(best().training, id_dropout=0.1)
    settings = TrainSettings(uri, "runs", training=training)
    assert check_dataset(settings).manifest.item_features
    manifest = Path(uri) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"item_features": []}))
    with pytest.raises(ConfigError, match=r"training\.id_dropout: must be 0"):
        check_dataset(settings)


@pytest.mark.parametrize("options", [["--training.max-behaviors", "20"], ["--training.max-behaviors", "7"], []])
def test_every_position_of_a_long_history_is_trained_whatever_the_length_of_windows(
    options: list[str], tmp_path: Path
) -> None:
    directory, items = Directory.at(tmp_path), np.arange(1, 101)
    directory.write_table(
        "sequences/train/bucket-00000.parquet", sequences_table([BehaviorSequence(1, items, 10 * items)])
    )
    counts = {"num_users": {"train": 1}, "num_events": {"train": 100}, "num_items": 100}
    write_manifest(directory, DatasetManifest("int64", num_buckets=1, first_ms=10, last_ms=1000, **counts))  # type: ignore[arg-type]
    settings = read_settings(Train, [*NEEDED, *options])
    training = settings.training
    examples = ParquetExamples.of(PreparedDataset.open(directory.uri), [0], settings.model, training)
    per_epoch = examples.num_examples // training.num_epochs
    for _ in range(training.num_epochs):
        trained = TrainedPositions.every(examples.take(0, per_epoch))
        assert set(trained.targets[:, :, 0][trained.mask[:, :, 0]].tolist()) == set(range(2, 101)), (
            "the next item of each"
        )
    assert 750 <= training.windows_per_step * training.max_behaviors <= 850, "as many positions a step"


def test_workers_connect_to_kafka_by_the_settings_of_the_driver_but_for_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA_CLIENT_ID", "shop")
    monkeypatch.setenv("MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD", "geheim")
    trainer = _trainer(TrainSettings("dataset", "/runs"), {"monitor": None})
    sent = vars(trainer.run_config)["worker_runtime_env"]["env_vars"]  # mypy sees the settings of Train V1
    assert {name: value for name, value in sent.items() if "MIND_DIST" in name} == {"MIND_DIST_KAFKA_CLIENT_ID": "shop"}
