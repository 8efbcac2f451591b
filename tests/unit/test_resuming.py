"""A run goes on from a version of its own alone; one of another run, or on other data, is named and refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mind_dist.checkpoint import ModelVersion
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import AnotherLog, ConfigError
from mind_dist.log.identity import LogIdentity
from mind_dist.storage import Directory
from mind_dist.training.moved_histories import check_partitions
from mind_dist.training.resuming import check_resume
from tests.toy_training import MODEL, TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset")))


@pytest.fixture(scope="module")
def version(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    directory = Directory.at(tmp_path_factory.mktemp("version"))
    run = open_run(parquet_examples(dataset, TRAINING), dataset)
    next(run.steps())
    run.save(directory)
    return ModelVersion.open(directory.uri)


def with_other_items(dataset: PreparedDataset, path: Path) -> PreparedDataset:
    """Return the same dataset without its first item, which nobody touched, and with its time range."""
    write_dataset(path)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"last_ms": 10000', '"last_ms": 20000'))
    catalog = ItemCatalog(dataset.catalog().table.slice(1))
    Directory.at(path).write_table("items.parquet", catalog.table)
    return PreparedDataset.open(str(path))


def check(version: ModelVersion, dataset: PreparedDataset, *, from_log: bool = False, **changed: Any) -> None:
    model = dataclasses.replace(MODEL, **changed.pop("model", {}))
    source = changed.pop("source", "toy")
    check_resume(version, model, dataclasses.replace(TRAINING, **changed), dataset, source, from_log=from_log)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"source": "kafka://events"}, "source: V was saved with 'toy', and now it is 'kafka://events'"),
        ({"model": {"dim": 4}}, r"model\.dim: V was saved with 8, and now it is 4"),
        ({"seed": 4, "batch_size": 4}, r"training\.seed: V was saved with 3, and now it is 4"),
        ({"max_behaviors": 7}, r"training\.max_behaviors: V was saved with 6, and now it is 7"),
        ({"num_targets": 3}, r"training\.num_targets: V was saved with 2, and now it is 3"),
        ({"window_stride": 2}, r"training\.window_stride: V was saved with 1, and now it is 2"),
        ({"batch_size": 8}, r"training\.batch_size: V was saved with 16, and now it is 8"),
        ({"epochs": 9}, r"training\.epochs: V was saved with 2, and now it is 9"),
    ],
)
def test_the_first_setting_that_differs_is_named_with_both_values(
    changed: dict[str, Any], named: str, version: ModelVersion, dataset: PreparedDataset
) -> None:
    with pytest.raises(ConfigError, match=named.replace("V", re.escape(version.directory.uri))) as raised:
        check(version, dataset, **changed)
    assert "--init-from begins it with the parameters of that version" in str(raised.value)


def test_other_data_is_refused_but_where_positions_are_those_of_a_log(
    version: ModelVersion, dataset: PreparedDataset, tmp_path: Path
) -> None:
    other = with_other_items(dataset, tmp_path)
    with pytest.raises(
        ConfigError, match=f"manifest: .* saved with '{dataset.digest}', and now it is '{other.digest}'"
    ):
        check(version, other)
    with pytest.raises(ConfigError, match="digest of the dataset's manifest"):
        open_run(parquet_examples(other, TRAINING), other, version)
    check(version, other, from_log=True, batch_size=4, epochs=9)


def test_what_moves_no_position_may_change(version: ModelVersion, dataset: PreparedDataset) -> None:
    check(version, dataset, learning_rate=0.1, max_steps=3, checkpoint_every_steps=7, temperature=0.2)


def test_a_run_on_other_data_begins_with_a_versions_parameters_and_its_own_items(
    version: ModelVersion, dataset: PreparedDataset, tmp_path: Path
) -> None:
    other = with_other_items(dataset, tmp_path / "dataset")
    run = open_run(parquet_examples(other, TRAINING), other)
    run.start_from(version)
    run.save(Directory.at(tmp_path / "version"))
    begun = InterestEncoder.load(str(tmp_path / "version"))
    np.testing.assert_array_equal(begun.item_keys, other.catalog().keys)
    kept = np.isin(version.items().keys, other.catalog().keys)
    table = ModelVersion.open(str(tmp_path / "version")).items()
    rows = np.searchsorted(table.keys, version.items().keys[kept])
    np.testing.assert_array_equal(table.vectors[rows], version.items().vectors[kept])


def test_positions_of_a_topic_that_was_made_anew_are_refused_and_the_log_is_kept_with_them(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    log = LogIdentity("cluster", "events", "first")
    events = toy_log()
    run = open_run(event_examples(events, dataset=dataset), dataset, observe=True, log=log)
    next(iter(run.steps()))
    run.save(Directory.at(tmp_path))
    saved = ModelVersion.open(str(tmp_path))
    assert saved.manifest.log == log
    for now in (LogIdentity("cluster", "events", "second"), LogIdentity("another", "events", "first")):
        with pytest.raises(AnotherLog, match=r"there is now topic events.*give a new run another --name; --init-from"):
            open_run(event_examples(events, saved, dataset=dataset), dataset, saved, observe=True, log=now)
    for now in (log, LogIdentity("cluster", "events", "")):  # of the latter, the broker tells no id
        assert open_run(event_examples(events, saved, dataset=dataset), dataset, saved, observe=True, log=now).step == 1
    with pytest.raises(ConfigError, match="'events' has 3 partitions"):
        check_partitions(saved, "events", 3)
