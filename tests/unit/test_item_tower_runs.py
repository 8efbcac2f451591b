"""The item tower from training to serving: what it learns, and that a version gives the vectors that were trained."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import ItemTowerConfig, ModelConfig, TrainingConfig, TwoTowerConfig
from mind_dist.dataset.item_catalog import FEATURE_VALUES, ITEM_SCHEMA
from mind_dist.dataset.parquet import DatasetManifest, FeatureInfo, PreparedDataset, sequences_table, write_manifest
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.model.item_tower import item_chunks
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun
from tests.toy_training import (
    MODEL,
    TRAINING,
    event_examples,
    open_run,
    parquet_examples,
    toy_log,
    write_dataset,
)

TOWER = ItemTowerConfig((12,), dropout=0.1, num_continuous=1)
CONFIG = dataclasses.replace(TRAINING, id_dropout=0.3)
MODELS = {
    "one vector": dataclasses.replace(MODEL, item_tower=TOWER),
    "two vectors, no layers": dataclasses.replace(
        MODEL, item_tower=ItemTowerConfig(num_continuous=1), separate_item_vectors=True
    ),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset"), priced=True))


def opened(
    source: str, dataset: PreparedDataset, model: ModelConfig, version: ModelVersion | None = None
) -> TrainingRun:
    if source == "parquet":
        return open_run(parquet_examples(dataset, CONFIG, version), dataset, version, config=CONFIG, model=model)
    examples = event_examples(toy_log(), version, dataset=dataset)
    return open_run(examples, dataset, version, observe=True, config=CONFIG, model=model)


def save(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("source", ["parquet", "log"])
def test_a_version_has_the_vectors_that_training_would_export_bit_for_bit(
    source: str, model: ModelConfig, dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = opened(source, dataset, model)
    encoder = InterestEncoder(save(run, tmp_path))
    tower, keys = run.model.eval().item_tower, encoder.item_keys
    rows = run.table.all_rows()
    chunks = item_chunks(tower, torch.from_numpy(rows.vectors), rows.keys, keys, dataset.catalog())
    exported = torch.cat([chunk.vectors for chunk in chunks])
    searched = torch.nn.functional.normalize(exported[:, -MODEL.dim :])
    np.testing.assert_allclose(encoder.item_vectors, searched.numpy(), atol=1e-6)
    assert torch.equal(encoder._items.vectors, exported)
    assert InterestEncoder.load(str(tmp_path)).item_vectors.tobytes() == encoder.item_vectors.tobytes()


@pytest.mark.parametrize("source", ["parquet", "log"])
def test_a_resumed_run_trains_the_tower_as_an_uninterrupted_one(
    source: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    model = MODELS["one vector"]
    whole = save(opened(source, dataset, model), tmp_path / "whole")
    crashed = opened(source, dataset, model)
    for _ in islice(crashed.steps(), 4):
        pass
    crashed.save(Directory.at(tmp_path / "saved"))
    saved = ModelVersion.open(str(tmp_path / "saved"))
    resumed = save(opened(source, dataset, model, saved), tmp_path / "resumed")
    assert resumed.manifest.files == whole.manifest.files
    assert bool(whole.dense()["item_tower.layers.1.weight"].any())


def test_items_that_only_the_log_has_are_encoded_as_they_were_trained(dataset: PreparedDataset, tmp_path: Path) -> None:
    log, strangers = toy_log(), [700, 701]
    for number in range(40):
        item = strangers[number % 2]
        log.append(encode_key(1), encode_event(1, item, 20_000 + number), 0)
    run = open_run(event_examples(log, dataset=dataset), dataset, observe=True, model=MODELS["one vector"])
    encoder = InterestEncoder(save(run, tmp_path))
    assert encoder.knows(np.array(strangers)).all()
    user = BehaviorSequence(9, np.array(strangers), np.array([1, 2]), np.zeros(1, np.int64))
    assert len(encoder.encode([user])[0].vectors)


def test_a_version_whose_catalog_has_other_features_than_its_model_is_refused(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    save(opened("parquet", dataset, MODELS["one vector"]), tmp_path)
    plain = dataset.catalog().table.drop_columns([FEATURE_VALUES])
    Directory.at(tmp_path).write_table("catalog.parquet", plain)
    with pytest.raises(VersionError, match="its catalog has 0 continuous features of items, its config says 1"):
        InterestEncoder(ModelVersion.open(str(tmp_path), verify=False))


def test_the_dataset_says_how_many_inputs_the_model_has(dataset: PreparedDataset) -> None:
    fitted = dataset.manifest.fit(ModelConfig(item_tower=ItemTowerConfig((8,), num_continuous=7)))
    assert fitted.item_tower == ItemTowerConfig((8,), num_continuous=1)
    assert fitted.num_profile_features == 1


NUM_PRICED, NUM_COLD = 120, 24


def write_market(path: Path) -> tuple[PreparedDataset, Keys]:
    """Write users who buy around a price of their own, half of the items, and items that nobody has bought yet."""
    directory, random = Directory.at(path), np.random.default_rng(3)
    prices = random.uniform(-1.7, 1.7, NUM_PRICED)
    cold = np.sort(random.choice(NUM_PRICED, NUM_COLD, replace=False))
    sold = np.setdiff1d(np.arange(NUM_PRICED), cold)
    users = []
    for user in range(300):
        near = sold[np.abs(prices[sold] - random.uniform(-1.7, 1.7)).argsort()[:12]]
        users.append(BehaviorSequence(user, random.permutation(near)[:8], np.arange(8)))
    directory.write_table("sequences/train/bucket-00000.parquet", sequences_table(users))
    counts = np.bincount(np.concatenate([user.item_keys for user in users]), minlength=NUM_PRICED)
    keys = np.arange(NUM_PRICED)
    table = pa.table([keys, [str(key) for key in keys], counts, [[]] * NUM_PRICED], schema=ITEM_SCHEMA)
    values = pa.FixedSizeListArray.from_arrays(pa.array(prices, pa.float32()), 1)
    directory.write_table("items.parquet", table.append_column(FEATURE_VALUES, values))
    manifest = DatasetManifest(
        "int64",
        1,
        num_items=NUM_PRICED,
        first_ms=0,
        last_ms=8,
        item_features=(FeatureInfo("price", "continuous"),),
        num_users={"train": 300},
        num_events={"train": int(counts.sum())},
    )
    write_manifest(directory, manifest)
    return PreparedDataset.open(directory.uri), cold


@pytest.mark.parametrize("hidden_dims", [(), (32,)])
def test_items_that_nobody_has_bought_are_found_by_their_price(hidden_dims: tuple[int, ...], tmp_path: Path) -> None:
    dataset, cold = write_market(tmp_path / "market")
    model = ModelConfig(
        TwoTowerConfig(), dim=16, num_interests=1, hidden_dims=(32,), item_tower=ItemTowerConfig(hidden_dims)
    )
    config = TrainingConfig(batch_size=64, max_behaviors=8, epochs=12, id_dropout=0.5, learning_rate=0.01, seed=2)
    examples = parquet_examples(dataset, config, partitions=[0])
    run = TrainingRun(examples, dataset, dataset.manifest.fit(model), config, source="market")
    encoder = InterestEncoder(save(run, tmp_path / "version"))
    assert encoder.knows(cold).all()
    prices = dataset.catalog().feature_values[:, 0]
    vectors = encoder.item_vectors[cold]
    found = []
    for price in (-1.2, -0.6, 0.0, 0.6, 1.2):
        bought = np.setdiff1d(np.abs(prices - price).argsort()[:20], cold)[:8]
        (user,) = encoder.encode([BehaviorSequence(1, bought, np.arange(len(bought)))])
        ranked = cold[(vectors @ user.vectors[0]).argsort()[::-1]]
        found.append(np.abs(prices[ranked[:3]] - price).mean())
    by_chance = np.abs(prices[cold][:, None] - [-1.2, -0.6, 0.0, 0.6, 1.2]).mean()
    assert np.mean(found) < (0.35 if hidden_dims else 0.6) * by_chance
