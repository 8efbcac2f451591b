"""Scores of targets and pool: of the user as a target sees them, or of the best interest."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.best import best_interest_scores
from mind_dist.model.objectives.hard import hard_scores
from mind_dist.model.objectives.label_aware import label_aware_scores
from mind_dist.model.objectives.scores import Scores, Scoring

COUNTS = torch.tensor([3, 2, 0, 1, 3, 3])


def problem(num_interests: int = 3, *, mask: Tensor | None = None) -> tuple[Interests, Tensor, Tensor]:
    torch.manual_seed(0)
    vectors, targets, pool = (
        torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((6, num_interests, 5), (6, 2, 5), (9, 5))
    )
    mask = torch.arange(num_interests) < COUNTS[:, None] if mask is None else mask
    return Interests(vectors, mask, mask.double(), mask[:, None].double()), targets, pool


def by_autograd(interests: Interests, targets: Tensor, pool: Tensor) -> Scores:
    """Return the best interests' scores as autograd would have them: all scores kept, and a max over interests."""

    def best(scores: Tensor) -> Tensor:
        real = interests.mask[:, None, :]
        found = scores.masked_fill(~real, -math.inf).max(dim=-1).values
        return torch.where(real.any(dim=-1), found, torch.zeros_like(found))

    own = best(targets @ interests.vectors.transpose(1, 2))
    of_pool = best(torch.einsum("pd,bkd->bpk", pool, interests.vectors))
    return Scores(own, of_pool[:, None, :])


@pytest.mark.parametrize(
    "mask", [None, torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) < 0.6, torch.ones(6, 3).bool()]
)
def test_values_and_gradients_are_those_of_the_max_over_interests(mask: Tensor | None) -> None:
    interests, targets, pool = problem(mask=mask)
    found, expected = best_interest_scores(interests, targets, pool), by_autograd(interests, targets, pool)
    direction = [torch.randn_like(part) for part in expected]
    gradients = []
    for scores in (found, expected):
        loss = sum((part * along).sum() for part, along in zip(scores, direction, strict=True))
        assert isinstance(loss, Tensor)
        gradients.append(torch.autograd.grad(loss, [interests.vectors, targets, pool]))
    for left, right in [*zip(found, expected, strict=True), *zip(*gradients, strict=True)]:
        assert torch.allclose(left, right, atol=1e-12)


def test_one_interest_is_scored_the_same_either_way() -> None:
    interests, targets, pool = problem(1)
    best = best_interest_scores(interests, targets, pool)
    for left, right in zip(best, hard_scores(interests, targets, pool), strict=True):
        assert torch.allclose(left.expand_as(right), right)


def test_the_best_interest_never_scores_less_than_the_one_a_target_chooses() -> None:
    interests, targets, pool = problem()
    best, chosen = (
        best_interest_scores(interests, targets, pool),
        hard_scores(interests, targets, pool),
    )
    assert torch.allclose(best.own, chosen.own)
    assert bool((best.pool >= chosen.pool - 1e-12).all())


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
    interests = Interests(vectors, mask, mask.float(), mask[:, None].float())
    scores = hard_scores(interests, torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert scores.pool.tolist() == [[[1.0]]]


@pytest.mark.parametrize("form", ["power", "scaled"])
def test_large_powers_of_label_aware_attention_come_close_to_the_hard_choice(form: Literal["power", "scaled"]) -> None:
    interests, targets, pool = problem()
    targets = targets * 20  # what is below 1 has no power
    hard = hard_scores(interests, targets, pool)
    for left, right in zip(label_aware_scores(interests, targets, pool, power=1e4, form=form), hard, strict=True):
        assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("scoring", [best_interest_scores, hard_scores])
@pytest.mark.parametrize(("num_users", "num_targets", "num_items"), [(0, 2, 3), (2, 0, 3), (2, 2, 0), (0, 0, 0)])
def test_empty_batches_and_pools_give_empty_scores(
    num_users: int, num_targets: int, num_items: int, scoring: Scoring
) -> None:
    vectors, mask = torch.ones(num_users, 3, 4, requires_grad=True), torch.ones(num_users, 3, dtype=torch.bool)
    targets, pool = torch.ones(num_users, num_targets, 4), torch.ones(num_items, 4, requires_grad=True)
    found = scoring(Interests(vectors, mask, mask.float(), mask[:, None].float()), targets, pool)
    assert found.own.shape == (num_users, num_targets)
    assert found.pool.shape == (num_users, 1 if scoring is best_interest_scores else num_targets, num_items)
    (found.own.sum() + found.pool.sum()).backward()
    assert vectors.grad is not None
    assert pool.grad is not None


@pytest.mark.parametrize("scoring", [best_interest_scores, hard_scores])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_finite_also_for_users_without_interests(dtype: torch.dtype, scoring: Scoring) -> None:
    interests, targets, pool = problem()
    low = interests._replace(vectors=interests.vectors.detach().to(dtype).requires_grad_())
    found = scoring(low, targets.to(dtype), pool.to(dtype))
    exact = scoring(interests, targets, pool)
    (found.own.float().sum() + found.pool.float().sum()).backward()
    assert low.vectors.grad is not None
    assert bool(low.vectors.grad.isfinite().all())
    for left, right in zip(found, exact, strict=True):
        assert torch.allclose(left.double(), right, atol=0.1)


def test_under_autocast_gradients_come_in_the_precision_of_what_they_are_of() -> None:
    interests, targets, pool = problem()
    vectors, items = (part.detach().float().requires_grad_() for part in (interests.vectors, pool))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = best_interest_scores(interests._replace(vectors=vectors), targets.float(), items)
        loss = found.own.float().sum() + found.pool.float().sum()
    loss.backward()
    exact = by_autograd(interests, targets, pool)
    expected = torch.autograd.grad(exact.own.sum() + exact.pool.sum(), [interests.vectors, pool])
    for part, gradient in zip((vectors, items), expected, strict=True):
        assert part.grad is not None
        assert part.grad.dtype == torch.float32
        assert float(torch.cosine_similarity(part.grad.flatten().double(), gradient.flatten(), dim=0)) > 0.99
