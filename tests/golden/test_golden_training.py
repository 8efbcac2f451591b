"""Losses of two small runs with a fixed seed: a refactor of data, table or loop must keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mind_dist.data.parquet import PreparedDataset
from tests.toy_training import TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

DATASET_LOSSES = [
    *(5.64884, 4.73934, 5.55235, 5.39428, 4.41552, 4.72871, 4.2357, 4.7305, 3.33467, 4.1898),
    *(4.20775, 4.23923, 3.69518, 4.11778, 3.1961, 3.20077, 3.66603, 3.44347, 3.69369, 3.26305),
]
LOG_LOSSES = [6.06916, 5.81265, 4.92657, 3.56128, 4.62305, 5.17347, 4.04885, 4.3065, 5.27456]


def test_training_on_a_dataset_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    config = dataclasses.replace(TRAINING, epochs=3, max_steps=20)
    run = open_run(parquet_examples(dataset, config), dataset, config=config)
    np.testing.assert_allclose([report.loss for report in run.steps()], DATASET_LOSSES, rtol=1e-3)


def test_training_on_a_log_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    run = open_run(event_examples(toy_log(poison_every=11), dataset=dataset), dataset, observe=True)
    np.testing.assert_allclose([report.loss for report in run.steps()], LOG_LOSSES, rtol=1e-3)
