"""Losses of two small runs with a fixed seed: a refactor of data, table or loop must keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mind_dist.data.parquet import PreparedDataset
from tests.toy_training import TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

DATASET_LOSSES = [
    *(5.56382, 4.66625, 5.49569, 5.32973, 4.34604, 4.66109, 4.153, 4.64856, 3.26377, 4.11744),
    *(4.14031, 4.17321, 3.63442, 4.04391, 3.12495, 3.14184, 3.61693, 3.38303, 3.62627, 3.1971),
]
LOG_LOSSES = [6.0368, 5.66139, 4.77609, 3.44741, 4.49688, 5.03748, 3.92743, 4.18196, 5.06221]


def test_training_on_a_dataset_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    config = dataclasses.replace(TRAINING, epochs=3, max_steps=20)
    run = open_run(parquet_examples(dataset, config), dataset, config=config)
    np.testing.assert_allclose([report.loss for report in run.steps()], DATASET_LOSSES, rtol=1e-3)


def test_training_on_a_log_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    run = open_run(event_examples(toy_log(poison_every=11), dataset=dataset), dataset, observe=True)
    np.testing.assert_allclose([report.loss for report in run.steps()], LOG_LOSSES, rtol=1e-3)
