"""How likely an item is to be in the pool, as the loop corrects by it, against how often it is there."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.config import SampledConfig, TrainingConfig
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset, sequences_table, write_manifest
from mind_dist.examples.batches import batches
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.training.collectives import SingleRank
from mind_dist.training.item_table import ItemTable
from mind_dist.training.negatives import log_inclusion, step_inputs
from mind_dist.training.positions import TrainedPositions

NUM_USERS, NUM_ITEMS, LONGEST, HORIZON = 400, 50, 8, 5


class NoFeatures(NamedTuple):
    feature_offsets: Keys = np.zeros(1, np.int64)
    feature_keys: Keys = np.zeros(0, np.int64)
    feature_values: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def rows(self, keys: Keys) -> Keys:
        return np.full(len(keys), -1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Return users of 3 to 30 behaviors, each an item of its own, some items fifty times as frequent as others."""
    directory, generator = Directory.at(tmp_path_factory.mktemp("dataset")), np.random.default_rng(2)
    weights = 50.0 ** -(np.arange(NUM_ITEMS) / NUM_ITEMS)
    users = []
    for user in range(NUM_USERS):
        length = int(generator.integers(3, 31))
        items = generator.choice(NUM_ITEMS, length, p=weights / weights.sum()) + 1
        users.append(BehaviorSequence(user + 1, items.astype(np.int64), np.arange(length)))
    directory.write_table("sequences/train/bucket-00000.parquet", sequences_table(users))
    num_events = sum(map(len, users))
    manifest = DatasetManifest(
        id_type="int64",
        num_buckets=1,
        num_users={"train": NUM_USERS},
        num_events={"train": num_events},
        num_items=NUM_ITEMS,
        first_ms=0,
        last_ms=100,
    )
    write_manifest(directory, manifest)
    return PreparedDataset.open(directory.uri)


def table_of(dataset: PreparedDataset) -> ItemTable:
    seen = np.concatenate([user.item_keys for user in dataset.sequences("train")])
    keys, counts = np.unique(seen, return_counts=True)
    table = ItemTable(4)
    table.set_counts(keys, counts, seen_ms=0)
    return table


class Beside(SingleRank):
    """One of two workers, of which the other's rows are known."""

    def __init__(self, others: Tensor) -> None:
        self._others = others

    def gather(self, rows: Tensor) -> list[Tensor]:
        return [rows, self._others]


def presences_over_chance(
    dataset: PreparedDataset, negatives: SampledConfig, *, every: bool, num_steps: int
) -> NDArray[np.float64]:
    """Return, for each item, the mean of 1 / q where it is in the pool and 0 where not: 1 if q is how often it is there.

    The mean is over the steps' windows, but for those that target the item themselves: there it is for certain.
    """
    stride = LONGEST if every else 1
    config = TrainingConfig(
        batch_size=8,
        max_behaviors=LONGEST,
        num_targets=HORIZON,
        window_stride=stride,
        every_position=every,
        negatives=negatives,
    )
    examples = ParquetExamples(
        dataset, [0], max_behaviors=LONGEST, num_targets=HORIZON, window_stride=stride, epochs=20, seed=3
    )
    table, features = table_of(dataset), NoFeatures()
    others = torch.zeros(0, dtype=torch.int64)
    found, asked = np.zeros(NUM_ITEMS + 1), np.zeros(NUM_ITEMS + 1)
    for step, batch in enumerate(islice(batches(examples, config.batch_size), num_steps)):
        generator, ranks = np.random.default_rng(step), Beside(others)
        inputs = step_inputs(batch, table, generator, features, config=config, every=every, ranks=ranks)
        q = log_inclusion(inputs, table, config.negatives).exp().numpy()
        first_ends = np.unique(inputs.windows[inputs.trained].numpy(), return_index=True)[1]
        for own, end in zip(inputs.own_in_pool.numpy(), first_ends, strict=True):
            of_others = np.ones(len(inputs.pool), dtype=np.bool_)
            of_others[own[own >= 0]] = False
            assert (q[end][~of_others] == 1).all()
            found[inputs.pool_keys[of_others]] += 1 / q[end][of_others]
            asked += 1
            asked[inputs.pool_keys[~of_others]] -= 1
        keys, real = (TrainedPositions.every if every else TrainedPositions.after_window)(batch.examples).events
        others = torch.from_numpy(keys[real])  # another worker has the last step's windows
    return found[1:] / asked[1:]


@pytest.mark.parametrize(
    ("every", "negatives"),
    [
        (True, SampledConfig(count=0)),
        (True, SampledConfig(count=10, power=0.5)),
        (False, SampledConfig(count=10, distribution="log_uniform")),
    ],
    ids=["every position", "with some drawn", "after windows"],
)
def test_an_item_is_in_the_pool_as_often_as_the_correction_says(
    every: bool, negatives: SampledConfig, dataset: PreparedDataset
) -> None:
    found = presences_over_chance(dataset, negatives, every=every, num_steps=800)
    from_frequent_to_rare = found.reshape(5, -1).mean(axis=1)
    np.testing.assert_allclose(from_frequent_to_rare, 1.0, atol=0.1)
