"""The best interest scores every item: one pass, a block at a time, against what autograd makes of the same definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives import Candidates
from mind_dist.model.objectives import best as objectives_best
from mind_dist.model.objectives.best import BestObjective
from mind_dist.model.objectives.softmax import sampled_softmax_loss

COUNTS = torch.tensor([3, 2, 0, 1, 3, 3])
USERS, TARGETS, ITEMS, DIM = 6, 2, 9, 5
TEMPERATURE = 0.3


def problem(
    mask: Tensor, *, own_corrected: bool = False, of_each: bool = True, num_items: int = ITEMS
) -> tuple[Interests, Candidates]:
    torch.manual_seed(0)
    shapes = ((USERS, mask.shape[1], DIM), (USERS, TARGETS, DIM), (num_items, DIM))
    vectors, targets, pool = (torch.randn(shape).requires_grad_() for shape in shapes)
    places = torch.tensor([[0, 1], [2, -1], [3, 3], [-1, -1], [4, 0], [8, 7]]).clamp(max=num_items - 1)
    target_mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [0, 0], [1, 1]]).bool()
    log_inclusion = -torch.rand(USERS if of_each else 1, num_items)
    own = -torch.rand(USERS, TARGETS) if own_corrected else None
    candidates = Candidates(targets, target_mask, pool, places, log_inclusion, own)
    return Interests(vectors, mask, mask[:, None].float()), candidates


def by_autograd(interests: Interests, candidates: Candidates, hard_beta: float = 0.0) -> Tensor:
    """Return the loss as autograd would have it: all scores kept, and a max over interests."""

    def best(scores: Tensor) -> Tensor:
        real = interests.mask[:, None, :]
        found = scores.masked_fill(~real, torch.finfo(scores.dtype).min).max(dim=-1).values
        return torch.where(real.any(dim=-1), found, torch.zeros_like(found))

    own = best(candidates.targets @ interests.vectors.transpose(1, 2))
    of_pool = best(torch.einsum("pd,bkd->bpk", candidates.pool, interests.vectors))
    return sampled_softmax_loss(
        own,
        of_pool[:, None, :],
        candidates.target_mask,
        candidates.targets_in_pool,
        candidates.log_inclusion,
        temperature=TEMPERATURE,
        own_log_inclusion=candidates.own_log_inclusion,
        hard_beta=hard_beta,
    )


def gradients(loss: Tensor, interests: Interests, candidates: Candidates) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * loss, [interests.vectors, candidates.targets, candidates.pool])


SOME = torch.arange(3) < COUNTS[:, None]
ODD = torch.rand(USERS, 3, generator=torch.Generator().manual_seed(1)) < 0.6


@pytest.mark.parametrize("block", [1, 2 * ITEMS, 1 << 17])
@pytest.mark.parametrize("hard_beta", [0.0, 0.7])
@pytest.mark.parametrize("mask", [SOME, ODD, torch.ones(USERS, 3).bool(), torch.ones(USERS, 1).bool()])
@pytest.mark.parametrize(("own_corrected", "of_each"), [(False, True), (True, False)])
def test_loss_and_gradients_are_those_of_the_max_over_interests(
    mask: Tensor, hard_beta: float, block: int, monkeypatch: pytest.MonkeyPatch, *, own_corrected: bool, of_each: bool
) -> None:
    monkeypatch.setattr(objectives_best, "_BLOCK_SCORES", block)
    problems = problem(mask, own_corrected=own_corrected, of_each=of_each)
    found, expected = BestObjective(TEMPERATURE, hard_beta)(*problems), by_autograd(*problems, hard_beta)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for left, right in zip(gradients(found, *problems), gradients(expected, *problems), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hard_beta", [0.0, 0.7])
def test_an_empty_pool_costs_nothing_and_still_has_a_graph(hard_beta: float) -> None:
    interests, candidates = problem(SOME)
    empty = candidates._replace(
        pool=candidates.pool[:0],
        log_inclusion=candidates.log_inclusion[:, :0],
        targets_in_pool=torch.full_like(candidates.targets_in_pool, -1),
    )
    loss = BestObjective(TEMPERATURE, hard_beta)(interests, empty)
    assert loss.item() == 0
    assert all(not part.any() for part in gradients(loss, interests, candidates)[:2])


def test_no_users_at_all_lose_nothing() -> None:
    interests, candidates = problem(SOME)
    nobody = torch.zeros(USERS, dtype=torch.bool)
    none = Candidates(
        candidates.targets[nobody],
        candidates.target_mask[nobody],
        candidates.pool,
        candidates.targets_in_pool[nobody],
        candidates.log_inclusion[nobody],
    )
    loss = BestObjective(TEMPERATURE)(interests.take(nobody), none)
    loss.backward()
    assert loss.item() == 0
    assert candidates.pool.grad is not None


def test_a_temperature_that_nothing_can_be_divided_by_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        BestObjective(0.0)(*problem(SOME))


@pytest.mark.parametrize("hard_beta", [0.0, 0.7])
def test_under_autocast_the_loss_is_close_and_gradients_come_in_the_precision_of_what_they_are_of(
    hard_beta: float,
) -> None:
    problems = problem(SOME)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = BestObjective(TEMPERATURE, hard_beta)(*problems)
    expected = by_autograd(*problems, hard_beta)
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.1)
    for found, exact in zip(gradients(loss, *problems), gradients(expected, *problems), strict=True):
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
        assert float((found - exact).norm() / exact.norm()) < 0.1
