"""A model version measured by exact search, and the job around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.evaluate import EvaluateJob, main
from mind_dist.checkpoint import TableRows, VersionWriter, seal
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.data.parquet import (
    ITEM_SCHEMA,
    DatasetManifest,
    FeatureInfo,
    ItemCatalog,
    PreparedDataset,
    sequences_table,
    write_manifest,
)
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.evaluation import evaluate_version, of_model
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence, no_keys
from mind_dist.storage import Directory

NUM_ITEMS, DIM = 30, 8
CONFIG = ModelConfig(dim=DIM, num_interests=3, hidden_dims=(8,))


def catalog() -> ItemCatalog:
    keys = list(range(NUM_ITEMS))
    table = pa.table([keys, [str(key) for key in keys], [1] * NUM_ITEMS, [[]] * NUM_ITEMS], schema=ITEM_SCHEMA)
    return ItemCatalog(table.append_column("genre", pa.array(["abc"[key % 3] for key in keys])))


@pytest.fixture(scope="module")
def dataset_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = Directory.at(tmp_path_factory.mktemp("dataset"))
    generator = np.random.default_rng(0)
    users = [BehaviorSequence(user, generator.integers(0, NUM_ITEMS, 15), np.arange(15)) for user in range(20)]
    for split, part in (("train", users[:12]), ("valid", users[12:15]), ("test", users[15:])):
        directory.write_table(f"sequences/{split}/bucket-00000.parquet", sequences_table(part))
    directory.write_table("items.parquet", catalog().table)
    split_by = {"by": "user", "input_fraction": 0.8}
    features = (FeatureInfo("year", "buckets"), FeatureInfo("genre"))
    write_manifest(
        directory, DatasetManifest("int64", 1, {}, {}, NUM_ITEMS, 0, 14, item_features=features, split=split_by)
    )
    return directory.uri


def save_version(path: Path, id_type: str = "int64") -> str:
    torch.manual_seed(3)
    keys, vectors = np.arange(NUM_ITEMS), torch.randn(NUM_ITEMS, DIM).numpy()
    writer = VersionWriter(Directory.at(path))
    writer.write_dense(MultiInterestModel(CONFIG).state_dict())
    writer.write_optimizer({})
    writer.write_catalog(catalog())
    writer.write_item_shard(0, 1, TableRows(keys, vectors, vectors, vectors, keys, keys + 1, keys))
    config = {"model": dump(CONFIG), "training": dump(TrainingConfig())}
    facts = {"step": 1, "watermark_ms": 0, "positions": {}, "metrics": {}, "source": ""}
    seal(writer.directory, writer.files, config=config, id_type=id_type, **facts)  # type: ignore[arg-type]
    return str(path)


@pytest.fixture(scope="module")
def version_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_version(tmp_path_factory.mktemp("version"))


def test_the_model_ranks_by_the_best_of_its_interests(version_uri: str) -> None:
    encoder = InterestEncoder.load(version_uri)
    history = BehaviorSequence(1, np.array([1, 2, 3, 4, 5]), np.arange(5))
    (ranked,) = of_model(encoder).recommend([history], 10, exclude_seen=True)
    (interests,) = encoder.encode([history])
    best = {
        int(key): max(float(np.dot(interest, vector)) for interest in interests.vectors)
        for key, vector in zip(encoder.item_keys, encoder.item_vectors, strict=True)
        if key not in history.item_keys
    }
    assert ranked.tolist() == sorted(best, key=lambda key: -best[key])[:10]


def test_a_user_of_unknown_items_gets_nothing(version_uri: str) -> None:
    recommender = of_model(InterestEncoder.load(version_uri))
    unknown = BehaviorSequence(1, np.array([999]), np.arange(1))
    assert [
        len(r) for r in recommender.recommend([unknown, BehaviorSequence(2, no_keys())], 5, exclude_seen=False)
    ] == [
        0,
        0,
    ]


def test_the_job_reports_the_model_beside_the_baselines(
    tmp_path: Path, dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    main(EvaluateJob(dataset_uri, version_uri, str(output)))
    report = json.loads(output.read_text())
    assert set(report["metrics"]) == {"model", "popularity", "transitions"}
    assert report["metrics"]["model"]["recall@50"] > 0
    assert {"diversity@50", "category_coverage@50"} <= report["metrics"]["popularity"].keys()
    assert report["split"] == "test"
    table = capsys.readouterr().out
    of_interests = ("best_single_recall@50", "least_interest_share@50", "largest_interest_share@50")
    for name in ("recall@50", "category_coverage@50", *of_interests, "interest_cosine"):
        assert -1 <= report["metrics"]["model"][name] <= 1
        assert name in table


def test_the_job_shows_its_table_without_an_output(
    dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(EvaluateJob(dataset_uri, version_uri, split="valid"))
    assert "transitions" in capsys.readouterr().out


def test_two_evaluations_agree_to_the_last_bit(dataset_uri: str, version_uri: str) -> None:
    dataset, encoder = PreparedDataset.open(dataset_uri), InterestEncoder.load(version_uri)
    assert evaluate_version(dataset, encoder) == evaluate_version(dataset, encoder)


def test_a_version_of_other_ids_is_refused(tmp_path: Path, dataset_uri: str) -> None:
    encoder = InterestEncoder.load(save_version(tmp_path, "string"))
    with pytest.raises(VersionError, match="has string ids, the dataset int64"):
        evaluate_version(PreparedDataset.open(dataset_uri), encoder)
