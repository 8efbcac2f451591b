"""Scores of targets and pool: of the user as a target sees them, or of the best interest."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.hard import hard_scores
from mind_dist.model.objectives.label_aware import label_aware_scores

COUNTS = torch.tensor([3, 2, 0, 1, 3, 3])


def problem(num_interests: int = 3, *, mask: Tensor | None = None) -> tuple[Interests, Tensor, Tensor]:
    torch.manual_seed(0)
    vectors, targets, pool = (
        torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((6, num_interests, 5), (6, 2, 5), (9, 5))
    )
    mask = torch.arange(num_interests) < COUNTS[:, None] if mask is None else mask
    return Interests(vectors, mask, mask[:, None].double()), targets, pool


def test_hard_scores_are_those_of_the_interest_that_a_target_chooses() -> None:
    interests, targets, pool = problem()
    found = hard_scores(interests, targets, pool)
    for user, target in ((0, 0), (1, 1), (3, 0), (5, 1)):
        real = interests.vectors[user, : COUNTS[user]]
        chosen = real[(real @ targets[user, target]).argmax()]
        assert torch.allclose(found.own[user, target], chosen @ targets[user, target])
        assert torch.allclose(found.pool[user, target], pool @ chosen)


def test_equal_scores_choose_the_first() -> None:
    vectors, mask = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 0.0, 2.0]]]), torch.ones(1, 2, dtype=torch.bool)
    interests = Interests(vectors, mask, mask[:, None].float())
    scores = hard_scores(interests, torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert scores.pool.tolist() == [[[1.0]]]


@pytest.mark.parametrize("form", ["power", "scaled"])
def test_large_powers_of_label_aware_attention_come_close_to_the_hard_choice(form: Literal["power", "scaled"]) -> None:
    interests, targets, pool = problem()
    targets = targets * 20  # what is below 1 has no power
    hard = hard_scores(interests, targets, pool)
    for left, right in zip(label_aware_scores(interests, targets, pool, power=1e4, form=form), hard, strict=True):
        assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize(("num_users", "num_targets", "num_items"), [(0, 2, 3), (2, 0, 3), (2, 2, 0), (0, 0, 0)])
def test_empty_batches_and_pools_give_empty_scores(num_users: int, num_targets: int, num_items: int) -> None:
    vectors, mask = torch.ones(num_users, 3, 4, requires_grad=True), torch.ones(num_users, 3, dtype=torch.bool)
    targets, pool = torch.ones(num_users, num_targets, 4), torch.ones(num_items, 4, requires_grad=True)
    found = hard_scores(Interests(vectors, mask, mask[:, None].float()), targets, pool)
    assert found.own.shape == (num_users, num_targets)
    assert found.pool.shape == (num_users, num_targets, num_items)
    (found.own.sum() + found.pool.sum()).backward()
    assert vectors.grad is not None
    assert pool.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_finite_also_for_users_without_interests(dtype: torch.dtype) -> None:
    interests, targets, pool = problem()
    low = interests._replace(vectors=interests.vectors.detach().to(dtype).requires_grad_())
    found = hard_scores(low, targets.to(dtype), pool.to(dtype))
    exact = hard_scores(interests, targets, pool)
    (found.own.float().sum() + found.pool.float().sum()).backward()
    assert low.vectors.grad is not None
    assert bool(low.vectors.grad.isfinite().all())
    for left, right in zip(found, exact, strict=True):
        assert torch.allclose(left.double(), right, atol=0.1)
