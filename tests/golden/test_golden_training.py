"""Losses of two small runs with a fixed seed: a refactor of data, table or loop must keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mind_dist.dataset.parquet import PreparedDataset
from tests.toy_training import TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

DATASET_LOSSES = [
    *(4.41179, 4.09938, 4.40709, 4.51114, 3.5752, 3.15659, 4.03333, 3.79139, 3.19566, 3.5016),
    *(3.6005, 3.46685, 3.636, 3.25908, 3.2426, 2.67211, 3.61524, 3.42234, 3.40012, 3.65483),
]
LOG_LOSSES = [3.65605, 3.92225, 5.12936, 3.91206, 3.63857, 4.49032, 3.66836, 4.69417, 3.31928]


def test_training_on_a_dataset_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    config = dataclasses.replace(TRAINING, epochs=3, max_steps=20)
    run = open_run(parquet_examples(dataset, config), dataset, config=config)
    np.testing.assert_allclose([report.loss for report in run.steps()], DATASET_LOSSES, rtol=1e-3)


def test_training_on_a_log_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    run = open_run(event_examples(toy_log(poison_every=11), dataset=dataset), dataset, observe=True)
    np.testing.assert_allclose([report.loss for report in run.steps()], LOG_LOSSES, rtol=1e-3)
