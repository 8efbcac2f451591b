"""Label-aware attention: soft for small powers, hard for infinite ones, of any sign and size."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mind_dist.model.attention import label_aware_attention
from mind_dist.model.interests import Interests
from mind_dist.model.item_bag import unit_vectors
from tests.reference import mind_loops

INF = float("inf")


def interests_of(vectors: Tensor, mask: Tensor | None = None) -> Interests:
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool) if mask is None else mask
    return Interests(
        vectors.masked_fill(~mask[..., None], 0), mask, mask.to(vectors.dtype), mask[:, None].to(vectors.dtype)
    )


@pytest.mark.parametrize("power", [0.5, 1.0, 8.0])
def test_attention_equals_a_plain_loop_reference(power: float) -> None:
    torch.manual_seed(0)
    vectors, targets = torch.randn(4, 3, 5), torch.randn(4, 2, 5)
    counts = [3, 2, 1, 3]
    mask = torch.arange(3) < torch.tensor(counts)[:, None]
    found = label_aware_attention(interests_of(vectors, mask), targets, power)
    for user, target in itertools.product(range(4), range(2)):
        real = vectors[user, : counts[user]].tolist()
        expected = mind_loops.label_attention(real, targets[user, target].tolist(), power)
        assert torch.allclose(found[user, target], torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_infinite_power_is_the_best_interest_and_large_powers_come_close(sign: int) -> None:
    torch.manual_seed(1)
    vectors, targets = unit_vectors(torch.randn(50, 4, 8)).abs() * sign, unit_vectors(torch.randn(50, 3, 8)).abs()
    interests = interests_of(vectors)
    best = (targets @ vectors.transpose(1, 2)).argmax(dim=2)
    expected = vectors.gather(1, best[..., None].expand(-1, -1, 8))
    assert torch.equal(label_aware_attention(interests, targets, INF), expected)
    assert torch.allclose(label_aware_attention(interests, targets, 1e8), expected, atol=1e-3)


def test_a_larger_power_never_fits_the_target_worse() -> None:
    torch.manual_seed(2)
    interests, targets = interests_of(torch.randn(30, 4, 8)), torch.randn(30, 3, 8)
    fits = [(label_aware_attention(interests, targets, p) * targets).sum(dim=2) for p in (0.1, 1.0, 10.0, 1e4, INF)]
    for duller, sharper in itertools.pairwise(fits):
        assert bool((sharper >= duller - 1e-5).all())


def test_equal_scores_choose_the_first() -> None:
    vectors = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 0.0, 2.0]]])
    chosen = label_aware_attention(interests_of(vectors), torch.tensor([[[1.0, 0.0, 0.0]]]), INF)
    assert chosen.tolist() == [[[1.0, 0.0, 1.0]]]


@pytest.mark.parametrize("power", [1.0, 8.0, 1e30, INF])
def test_masked_interests_get_no_weight(power: float) -> None:
    garbage = torch.full((1, 3, 2), 5.0)
    garbage[0, 1] = torch.tensor([-1.0, -1.0])
    interests = Interests(garbage, torch.tensor([[False, True, False]]), torch.zeros(1, 3), torch.zeros(1, 1, 3))
    assert label_aware_attention(interests, torch.ones(1, 1, 2), power).tolist() == [[[-1.0, -1.0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("power", [0.5, 8.0, 1e4, INF])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_values_and_gradients_are_finite_for_every_mask(dtype: torch.dtype, power: float, scale: float) -> None:
    mask = torch.tensor(list(itertools.product([False, True], repeat=3)))
    vectors = (torch.randn(8, 3, 4) * scale).to(dtype).requires_grad_()
    targets = torch.randn(8, 2, 4).to(dtype).requires_grad_()
    attended = label_aware_attention(interests_of(vectors, mask), targets, power)
    attended.float().sum().backward()
    assert attended.dtype == dtype
    assert not attended[0].any()
    assert vectors.grad is not None
    for values in (attended, vectors.grad, torch.zeros(1) if targets.grad is None else targets.grad):
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_a_power_that_is_not_above_zero_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        label_aware_attention(interests_of(torch.ones(1, 1, 1)), torch.ones(1, 1, 1), power)


@pytest.mark.parametrize("power", [2.0, INF])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty_batches_give_empty_vectors(power: float, shape: tuple[int, int]) -> None:
    users, targets = shape
    found = label_aware_attention(interests_of(torch.ones(users, 2, 4)), torch.ones(users, targets, 4), power)
    assert found.shape == (users, targets, 4)
