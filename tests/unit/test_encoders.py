"""Sequence encoders: causal, and lag kernels as their twin in plain loops has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mind_dist.config import (
    EncoderConfig,
    GruConfig,
    LagKernelsConfig,
    ModelConfig,
    NoEncoderConfig,
    TransformerConfig,
)
from mind_dist.model.encoders import LagKernels, sequence_encoder
from tests.reference import encoder_loops

LAGS = LagKernelsConfig(count=3, hidden_dim=5, max_lag=4)
GRU = GruConfig(hidden_dim=5, layers=2)
TRANSFORMER = TransformerConfig(hidden_dim=5, layers=2, positions=4)


@pytest.mark.parametrize("section", [NoEncoderConfig(), LAGS, GRU, TRANSFORMER], ids=lambda each: each.kind)
@pytest.mark.parametrize("dim", [6, 5])
def test_what_comes_later_never_changes_a_state(section: EncoderConfig, dim: int) -> None:
    torch.manual_seed(0)
    encoder = sequence_encoder(ModelConfig(dim=dim, encoder=section)).double()
    behaviors = torch.randn(3, 9, dim, dtype=torch.float64)
    states = encoder(behaviors)
    assert states.shape == behaviors.shape
    for length in range(1, 9):
        other = torch.cat([behaviors[:, :length], torch.randn(3, 5, dim, dtype=torch.float64)], dim=1)
        assert torch.allclose(encoder(other)[:, :length], states[:, :length], atol=1e-12)


@pytest.mark.parametrize("section", [LAGS, GRU, TRANSFORMER], ids=lambda each: each.kind)
def test_a_state_depends_on_every_behavior_up_to_it(section: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder = sequence_encoder(ModelConfig(dim=6, encoder=section)).double()
    behaviors = torch.randn(1, 6, 6, dtype=torch.float64, requires_grad=True)
    for place in range(6):
        (seen,) = torch.autograd.grad((encoder(behaviors)[0, place] @ torch.arange(6.0).double()).sum(), behaviors)
        assert seen[0].any(dim=1).tolist() == [other <= place for other in range(6)]


@pytest.mark.parametrize("length", [1, 3, 9])
def test_lag_kernels_see_the_weighted_means_of_a_plain_loop_reference(length: int) -> None:
    torch.manual_seed(0)
    encoder = LagKernels(6, 0.0, LAGS).double()
    torch.nn.init.normal_(encoder.log_weights)
    behaviors = torch.randn(2, length, 6, dtype=torch.float64)
    twins = [encoder_loops.lag_means(user.tolist(), encoder.log_weights.tolist()) for user in behaviors]
    means = torch.tensor(twins, dtype=torch.float64)
    assert torch.allclose(encoder(behaviors), means.mean(dim=2) + encoder.mlp(means.flatten(start_dim=2)))


def test_fresh_lag_kernels_look_less_and_less_at_the_newest() -> None:
    newest = LagKernels(6, 0.0, replace(LAGS, max_lag=50)).log_weights.softmax(dim=1)[:, 0].tolist()
    assert newest == sorted(newest, reverse=True)
    assert newest[-1] > 1 / 50


@pytest.mark.parametrize("section", [NoEncoderConfig(), LAGS, GRU, TRANSFORMER], ids=lambda each: each.kind)
@pytest.mark.parametrize("num_ends", [1, 4])
def test_states_at_some_positions_are_those_among_all(section: EncoderConfig, num_ends: int) -> None:
    torch.manual_seed(0)
    encoder = sequence_encoder(ModelConfig(dim=6, encoder=section)).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    behaviors, ends = torch.randn(5, 9, 6, dtype=torch.float64), torch.randint(0, 9, (5, num_ends))
    expected = encoder(behaviors)[torch.arange(5)[:, None], ends]
    for at_work in (encoder.train(), encoder.eval()):
        assert torch.allclose(at_work(behaviors, ends), expected, atol=1e-12)
    assert encoder(behaviors[:0], ends[:0]).shape == (0, num_ends, 6)
