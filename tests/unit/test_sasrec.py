"""The benchmarks' SASRec: its windows, and that no state sees what comes after it."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import torch

from benchmarks.sasrec import SASRec, SASRecJob, batches

LENGTH = 5


def test_an_epoch_has_every_behavior_but_a_users_first_once_as_a_target() -> None:
    starts = np.cumsum([0, 2, 5, 6, 7, 23])
    sequences = [np.arange(first, last) for first, last in pairwise(starts)]
    expected = Counter(item for rows in sequences for item in rows[1:].tolist())
    inputs, targets = next(batches(sequences, LENGTH, batch_size=100, seed=2))
    assert Counter(targets[targets >= 0].tolist()) == expected
    real = targets >= 0
    assert torch.equal(inputs[real] + 1, targets[real])
    assert not inputs[~real].any()


def test_every_epoch_is_cut_at_other_places() -> None:
    first, second = islice(batches([np.arange(40)], LENGTH, batch_size=100, seed=2), 2)
    assert not torch.equal(first[0], second[0])


def test_a_state_depends_on_nothing_after_it() -> None:
    torch.manual_seed(0)
    model = SASRec(20, LENGTH, SASRecJob(dim=8)).eval()
    rows = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 0, 0]])
    with torch.inference_mode():
        whole, padded = model(rows)
        short = model(rows[:1, :3])[0]
    torch.testing.assert_close(whole[:3], padded[:3])
    torch.testing.assert_close(whole[:3], short)
