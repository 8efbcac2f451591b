"""Sequence encoders: causal, and lag kernels as their twin in plain loops has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from mind_dist.config import ModelConfig
from mind_dist.model.encoders import LagKernels, sequence_encoder
from tests.reference import encoder_loops

CONFIG = ModelConfig(dim=6, encoder_dim=5, encoder_layers=2, max_recency=4, num_lag_kernels=3)


@pytest.mark.parametrize("kind", ["none", "lag_kernels", "gru", "transformer"])
@pytest.mark.parametrize("dim", [6, 5])
def test_what_comes_later_never_changes_a_state(
    kind: Literal["none", "lag_kernels", "gru", "transformer"], dim: int
) -> None:
    torch.manual_seed(0)
    encoder = sequence_encoder(replace(CONFIG, sequence_encoder=kind, dim=dim)).double()
    behaviors = torch.randn(3, 9, dim, dtype=torch.float64)
    states = encoder(behaviors)
    assert states.shape == behaviors.shape
    for length in range(1, 9):
        other = torch.cat([behaviors[:, :length], torch.randn(3, 5, dim, dtype=torch.float64)], dim=1)
        assert torch.allclose(encoder(other)[:, :length], states[:, :length], atol=1e-12)


@pytest.mark.parametrize("kind", ["lag_kernels", "gru", "transformer"])
def test_a_state_depends_on_every_behavior_up_to_it(kind: Literal["lag_kernels", "gru", "transformer"]) -> None:
    torch.manual_seed(0)
    encoder = sequence_encoder(replace(CONFIG, sequence_encoder=kind)).double()
    behaviors = torch.randn(1, 6, 6, dtype=torch.float64, requires_grad=True)
    for place in range(6):
        (seen,) = torch.autograd.grad((encoder(behaviors)[0, place] @ torch.arange(6.0).double()).sum(), behaviors)
        assert seen[0].any(dim=1).tolist() == [other <= place for other in range(6)]


@pytest.mark.parametrize("length", [1, 3, 9])
def test_lag_kernels_see_the_weighted_means_of_a_plain_loop_reference(length: int) -> None:
    torch.manual_seed(0)
    encoder = LagKernels(CONFIG).double()
    torch.nn.init.normal_(encoder.log_weights)
    behaviors = torch.randn(2, length, 6, dtype=torch.float64)
    twins = [encoder_loops.lag_means(user.tolist(), encoder.log_weights.tolist()) for user in behaviors]
    means = torch.tensor(twins, dtype=torch.float64)
    assert torch.allclose(encoder(behaviors), means.mean(dim=2) + encoder.mlp(means.flatten(start_dim=2)))


def test_fresh_lag_kernels_look_less_and_less_at_the_newest() -> None:
    newest = LagKernels(replace(CONFIG, max_recency=50)).log_weights.softmax(dim=1)[:, 0].tolist()
    assert newest == sorted(newest, reverse=True)
    assert newest[-1] > 1 / 50
