"""Losses of a small run with a fixed seed: a refactor must keep them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from mind_dist.config import ModelConfig
from mind_dist.model.interests import Behaviors
from mind_dist.model.item_bag import pool_bags, score_vectors
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.model.objectives.hard import hard_scores
from mind_dist.model.objectives.inclusion import log_inclusion_probability
from mind_dist.model.objectives.label_aware import label_aware_scores
from mind_dist.model.objectives.softmax import sampled_softmax_loss

NUM_ROWS, NUM_ITEMS, NUM_USERS, LONGEST, NUM_TARGETS = 60, 50, 16, 10, 2

LOSSES = {
    (8.0, True): [5.28707, 5.21141, 5.13787, 5.06667, 4.99801, 4.93195],
    (float("inf"), True): [5.23879, 5.16687, 5.09177, 5.01902, 4.9488, 4.8812],
    (1.0, False): [6.45807, 5.85951, 5.49345, 5.25256, 5.08248, 4.95348],
}
"""By power and normalisation."""


def run(power: float, *, normalize: bool) -> list[float]:
    """Return the losses of six SGD steps on one batch; every random number comes from NumPy's PCG64."""
    random = np.random.default_rng(7)
    config = ModelConfig(dim=8, hidden_dims=(12,), num_profile_features=1, normalize=normalize)
    model = MultiInterestModel(config)
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(random.normal(0, 0.3, parameter.shape).astype(np.float32))
    rows = torch.from_numpy(random.normal(0, 0.5, (NUM_ROWS, 8)).astype(np.float32)).requires_grad_()
    members = torch.from_numpy(random.integers(0, NUM_ROWS, (NUM_ITEMS, 3)))
    real_members = torch.from_numpy(random.random((NUM_ITEMS, 3)) < 0.7)
    history = torch.from_numpy(random.integers(0, NUM_ITEMS, (NUM_USERS, LONGEST)))
    mask = torch.from_numpy(np.arange(LONGEST) < random.integers(0, LONGEST + 1, (NUM_USERS, 1)))
    targets = torch.from_numpy(random.integers(0, NUM_ITEMS, (NUM_USERS, NUM_TARGETS)))
    shares = torch.full((NUM_ITEMS,), 1 / NUM_ITEMS)
    log_inclusion = log_inclusion_probability(shares, NUM_USERS * NUM_TARGETS - 1, 10 * shares, 1)
    optimizer = torch.optim.SGD([rows, *model.parameters()], lr=0.02)
    losses = []
    scoring = hard_scores if power == float("inf") else partial(label_aware_scores, power=power, form="scaled")
    for _ in range(6):
        items = pool_bags(rows, members, real_members)
        scored = score_vectors(items, normalize=normalize)
        interests = model(Behaviors(items[history], history, mask), rows[:NUM_USERS, None])
        scores = scoring(interests, scored[targets], scored)
        real_targets = mask.any(dim=1, keepdim=True).expand_as(targets)
        loss = sampled_softmax_loss(*scores, real_targets, targets, log_inclusion[None], temperature=0.2)
        optimizer.zero_grad()
        (loss / real_targets.sum()).backward()
        optimizer.step()
        losses.append(loss.item() / int(real_targets.sum()))
    return losses


@pytest.mark.parametrize(("power", "normalize"), LOSSES)
def test_losses_of_a_small_run_stay_what_they_were(power: float, normalize: bool) -> None:
    assert run(power, normalize=normalize) == pytest.approx(LOSSES[power, normalize], abs=1e-4)
