"""Losses of two small runs with a fixed seed: a refactor of data, table or loop must keep them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mind_dist.dataset.parquet import PreparedDataset
from tests.toy_training import TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

DATASET_LOSSES = [
    *(5.65673, 4.74776, 5.56200, 5.40721, 4.43291, 4.74162, 4.25706, 4.76765, 3.36635, 4.22771),
    *(4.24331, 4.29120, 3.73865, 4.18435, 3.23683, 3.26529, 3.74248, 3.51006, 3.79619, 3.35024),
]
LOG_LOSSES = [6.06916, 5.5711, 5.36612, 3.54736, 4.94618, 5.29376, 4.13306, 4.46449, 4.95386]


def test_training_on_a_dataset_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    config = dataclasses.replace(TRAINING, epochs=3, max_steps=20)
    run = open_run(parquet_examples(dataset, config), dataset, config=config)
    np.testing.assert_allclose([report.loss for report in run.steps()], DATASET_LOSSES, rtol=1e-3)


def test_training_on_a_log_gives_the_golden_losses(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    run = open_run(event_examples(toy_log(poison_every=11), dataset=dataset), dataset, observe=True)
    np.testing.assert_allclose([report.loss for report in run.steps()], LOG_LOSSES, rtol=1e-3)
