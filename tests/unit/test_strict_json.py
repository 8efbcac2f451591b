"""What is written as JSON is read by every other program, and what is none is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mind_dist.config import ModelConfig, TrainingConfig, dump, parse
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json, to_json
from mind_dist.training.run_versions import RunVersions
from tests.toy_training import TRAINING, open_run, parquet_examples, write_dataset


def read_strictly(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_does_not_have_are_written_as_what_it_has() -> None:
    written = to_json({"a": [math.nan, (math.inf, -math.inf)], "b": 0.1, "c": "NaN"})
    assert read_strictly(written) == {"a": [None, ["Infinity", "-Infinity"]], "b": 0.1, "c": "NaN"}


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', "[-Infinity]", "{"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no JSON|property name"):
        from_json(text)


@pytest.mark.parametrize("config", [ModelConfig(), TrainingConfig(), TRAINING])
def test_settings_come_back_from_json(config: Any) -> None:
    assert parse(type(config), read_strictly(to_json(dump(config)))) == config


def test_a_number_that_is_infinite_comes_back_as_one() -> None:
    assert parse(float, from_json(to_json(math.inf))) == math.inf


def test_a_dataset_a_version_and_a_run_are_strict_json(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path / "dataset"))
    run = open_run(parquet_examples(dataset, TRAINING), dataset)
    run.metrics = {"loss": math.nan, "recall": 0.5}
    assert run.save(Directory.at(tmp_path / "run/checkpoint_00000000")).metrics == {"recall": 0.5}
    RunVersions(Directory.at(tmp_path / "run")).keep(0, 2)
    for file in tmp_path.rglob("*.json"):
        read_strictly(file.read_text())


def test_a_dataset_whose_manifest_is_no_json_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"first_ms": 0', '"first_ms": NaN'))
    with pytest.raises(DatasetError, match=r"manifest\.json is torn or of another format: NaN is no JSON"):
        PreparedDataset.open(str(tmp_path))
