"""The sampled softmax, against the full softmax and its twin in plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mind_dist.model.objectives.inclusion import log_inclusion_probability
from mind_dist.model.objectives.softmax import sampled_softmax_loss
from tests.reference import mind_loops

TEMPERATURE = 0.5
REAL = torch.ones(1, 1, dtype=torch.bool)


def problem(num_items: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    users, pool = torch.randn(4, 3, 5), torch.randn(num_items, 5)
    index = torch.tensor([[0, 1, 2], [2, 2, 4], [5, 8, 0], [3, 3, 3]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True], [False, False, False]])
    return users, mask, index, pool


def loss_of(users: Tensor, mask: Tensor, index: Tensor, pool: Tensor, log_inclusion: Tensor, **options: Any) -> Tensor:
    """Return the loss of users whose targets are all in the pool."""
    scores = users @ pool.T
    with_one = functional.pad(scores, (0, 1))  # an empty pool has no place to look at
    own = with_one.gather(-1, index.clamp(max=len(pool))[:, :, None]).squeeze(-1)
    return sampled_softmax_loss(own, scores, mask, index, log_inclusion[None], **options)


def test_sampled_softmax_with_all_items_equals_full_softmax() -> None:
    users, mask, index, pool = problem()
    mask = mask & (torch.arange(3) == 0)  # one target a window: others would be no negatives of it
    found = loss_of(users, mask, index, pool, torch.zeros(9), temperature=TEMPERATURE)
    logits = (users @ pool.T / TEMPERATURE)[mask]
    assert torch.allclose(found, functional.cross_entropy(logits, index[mask], reduction="sum"))
    by_hand = sum(
        mind_loops.full_softmax_loss(user.tolist(), pool.tolist(), int(target), TEMPERATURE)
        for user, target in zip(users[mask], index[mask], strict=True)
    )
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_drawing_so_much_that_all_items_are_in_the_pool_needs_no_correction() -> None:
    shares = torch.full((9,), 1 / 9)
    assert log_inclusion_probability(shares, 3, shares, 4000).tolist() == [0.0] * 9


@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
def test_no_target_of_a_window_is_a_negative_of_it_and_hard_negatives_count_more(beta: float) -> None:
    users, mask, index, pool = problem()
    inclusion = torch.linspace(0.1, 0.9, 9)
    options = {"temperature": TEMPERATURE, "hard_beta": beta}
    found = loss_of(users, mask, index, pool, inclusion.log(), **options)
    expected = 0.0
    for window in range(4):
        targets = index[window][mask[window]].tolist()
        for user, target in zip(users[window].tolist(), targets, strict=False):
            expected += mind_loops.sampled_softmax_loss(
                user,
                pool.tolist(),
                target,
                inclusion.tolist(),
                TEMPERATURE,
                is_negative=lambda item, targets=targets: item not in targets,  # type: ignore[misc]
                beta=beta,
            )
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_of_no_weight_leave_the_plain_loss_and_more_weight_costs_more() -> None:
    users, mask, index, pool = problem()
    losses = [
        loss_of(users, mask, index, pool, torch.zeros(9), temperature=TEMPERATURE, hard_beta=beta).item()
        for beta in (0.0, 1e-6, 0.1, 1.0, 5.0)
    ]
    assert losses[0] == loss_of(users, mask, index, pool, torch.zeros(9), temperature=TEMPERATURE).item()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1:] == sorted(losses[1:])


def test_equal_negatives_are_all_as_hard_as_their_mean() -> None:
    index, pool = torch.zeros(1, 1, dtype=torch.int64), torch.ones(6, 2)
    options = {"temperature": TEMPERATURE}
    plain = loss_of(torch.ones(1, 1, 2), REAL, index, pool, torch.zeros(6), **options)
    hard = loss_of(torch.ones(1, 1, 2), REAL, index, pool, torch.zeros(6), hard_beta=3.0, **options)
    assert hard.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_target_alone_in_the_pool_costs_nothing() -> None:
    index = torch.zeros(1, 1, dtype=torch.int64)
    for beta in (0.0, 1.0):
        users, pool = torch.ones(1, 1, 2, requires_grad=True), torch.ones(1, 2)
        found = loss_of(users, REAL, index, pool, torch.full((1,), -9.0), temperature=0.1, hard_beta=beta)
        found.backward()
        assert found.item() == 0
        assert users.grad is not None
        assert not users.grad.any()


def test_the_correction_makes_the_estimated_sum_unbiased() -> None:
    torch.manual_seed(3)
    num_items, num_draws = 30, 8
    user, items = torch.randn(1, 1, 4), torch.randn(num_items, 4)
    shares, even = torch.rand(num_items).softmax(dim=0), torch.full((num_items,), 1 / num_items)
    log_inclusion = log_inclusion_probability(shares, num_draws, even, 5)
    target, full = 7, float((items @ user[0, 0]).exp().sum())
    estimates = []
    for _ in range(1500):
        draws = (torch.multinomial(shares, num_draws, replacement=True), torch.randint(num_items, (5,)))
        drawn = torch.cat(draws)
        pool = torch.unique(torch.cat([drawn, torch.tensor([target])]))
        at = (pool == target).nonzero()
        loss = loss_of(user, REAL, at, items[pool], log_inclusion[pool], temperature=1.0)
        estimates.append(math.exp(loss.item() + float(items[target] @ user[0, 0])))
    assert sum(estimates) / len(estimates) == pytest.approx(full, rel=0.03)


@given(share=st.floats(1e-4, 1.0), draws=st.integers(0, 50), drawn=st.floats(1e-4, 1.0), negatives=st.integers(0, 120))
def test_the_probability_of_being_drawn_is_that_of_not_being_left_out(
    share: float, draws: int, drawn: float, negatives: int
) -> None:
    shares, draw_shares = torch.tensor([[share], [drawn]], dtype=torch.float64)
    found = log_inclusion_probability(shares, draws, draw_shares, negatives).exp().item()
    assert found == pytest.approx(1 - (1 - share) ** draws * (1 - drawn) ** negatives, rel=1e-6, abs=1e-12)


def test_the_probability_of_being_drawn_is_exact_for_rare_and_for_certain_items() -> None:
    rare = log_inclusion_probability(torch.tensor([1e-12]), 100, torch.tensor([0.0]), 0)
    assert rare.item() == pytest.approx(math.log(1e-10), rel=1e-6)
    certain = torch.tensor([1.0, 0.9])
    assert log_inclusion_probability(certain, 400, torch.zeros(2), 0).tolist() == [0.0, 0.0]
    assert log_inclusion_probability(torch.tensor([0.0]), 400, torch.tensor([0.5]), 0).item() == -math.inf
    assert log_inclusion_probability(torch.zeros(0), 4, torch.zeros(0), 4).shape == (0,)


@pytest.mark.parametrize(("windows", "targets", "items"), [(0, 2, 3), (0, 2, 0), (0, 0, 0), (2, 0, 3), (2, 2, 3)])
def test_no_target_at_all_costs_nothing_and_stays_in_the_graph(windows: int, targets: int, items: int) -> None:
    users = torch.zeros(windows, targets, 4, requires_grad=True)
    pool = torch.zeros(items, 4, requires_grad=True)
    index = torch.full((windows, targets), 99)
    loss = loss_of(users, index < 0, index, pool, torch.zeros(items), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert users.grad is not None
    assert pool.grad is not None
    assert not users.grad.any()
    assert not pool.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_loss_and_gradients_are_finite_in_every_precision(dtype: torch.dtype, beta: float) -> None:
    users, mask, index, pool = problem()
    users, pool = (part.mul(30).to(dtype).requires_grad_() for part in (users, pool))
    loss = loss_of(users, mask, index, pool, torch.zeros(9), temperature=0.01, hard_beta=beta)
    loss.backward()
    assert loss.dtype == torch.float32
    for value in (loss, users.grad, pool.grad):
        assert value is not None
        assert bool(value.isfinite().all())


def test_scores_that_all_targets_share_need_be_there_but_once() -> None:
    users, mask, index, pool = problem()
    shared = users[:, :1].expand(-1, 3, -1)
    own = (shared * pool[index]).sum(dim=-1)
    once, each = (
        sampled_softmax_loss(own, part @ pool.T, mask, index, torch.zeros(1, 9), temperature=TEMPERATURE)
        for part in (users[:, :1], shared)
    )
    assert torch.allclose(once, each)


def test_a_temperature_that_is_not_above_zero_is_refused() -> None:
    users, mask, index, pool = problem()
    with pytest.raises(ValueError, match="above 0"):
        loss_of(users, mask, index, pool, torch.zeros(9), temperature=0.0)
