"""Label-aware attention, as MIND writes it and scaled: for scores of any sign and size, and powers of any size."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.item_bag import unit_vectors
from mind_dist.model.objectives.label_aware import label_aware_attention
from tests.reference import mind_loops

Form = Literal["power", "scaled"]

both_forms = pytest.mark.parametrize("form", ["power", "scaled"])


def interests_of(vectors: Tensor, mask: Tensor | None = None) -> Interests:
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool) if mask is None else mask
    return Interests(vectors.masked_fill(~mask[..., None], 0), mask, mask[:, None].to(vectors.dtype))


@both_forms
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 7.5, 40.0])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_attention_equals_a_plain_loop_reference(form: Form, power: float, scale: float) -> None:
    torch.manual_seed(0)
    vectors, targets = torch.randn(4, 3, 5), torch.randn(4, 2, 5) * scale
    counts = [3, 2, 1, 3]
    mask = torch.arange(3) < torch.tensor(counts)[:, None]
    found = label_aware_attention(interests_of(vectors, mask), targets, power=power, form=form)
    twin = mind_loops.label_attention if form == "power" else mind_loops.scaled_label_attention
    for user, target in itertools.product(range(4), range(2)):
        real = vectors[user, : counts[user]].tolist()
        expected = twin(real, targets[user, target].tolist(), power)
        assert torch.allclose(found[user, target], torch.tensor(expected), atol=2e-4)


def test_the_papers_form_is_its_formula_where_that_has_a_value() -> None:
    torch.manual_seed(3)
    vectors, targets = torch.rand(20, 4, 5, dtype=torch.float64), torch.rand(20, 2, 5, dtype=torch.float64)
    vectors.requires_grad_()
    weights = (targets @ vectors.transpose(1, 2)).pow(2.5).softmax(dim=-1)
    found, expected = label_aware_attention(interests_of(vectors), targets, power=2.5), weights @ vectors
    assert torch.allclose(found, expected)
    direction = torch.randn_like(found)
    (left,), (right,) = (torch.autograd.grad((part * direction).sum(), vectors) for part in (found, expected))
    assert torch.allclose(left, right)


@both_forms
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_are_those_of_the_reference_for_scores_of_either_sign(form: Form, sign: int) -> None:
    torch.manual_seed(4)
    vectors = (torch.rand(3, 4, 5, dtype=torch.float64) * sign).requires_grad_()
    targets = torch.rand(3, 2, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, t: label_aware_attention(interests_of(v), t, power=3.0, form=form), (vectors, targets)
    )


@both_forms
@pytest.mark.parametrize("sign", [1, -1])
def test_large_powers_take_the_best_interest_whatever_the_signs(form: Form, sign: int) -> None:
    torch.manual_seed(1)
    vectors = unit_vectors(torch.randn(50, 4, 8)).abs() * sign * 4
    targets = unit_vectors(torch.randn(50, 3, 8)).abs()
    scores = targets @ vectors.transpose(1, 2)
    attended = label_aware_attention(interests_of(vectors), targets, power=1e5, form=form)
    two_best = scores.topk(2).values  # what is below 1 has no power
    clear = (two_best.diff(dim=-1)[..., 0].abs() > 1e-3) & (two_best.abs() > 1.01).all(dim=-1)
    expected = vectors.gather(1, scores.argmax(dim=2)[..., None].expand(-1, -1, 8))
    assert clear.sum() > 50
    assert torch.allclose(attended[clear], expected[clear], atol=1e-3)


@both_forms
def test_a_larger_power_never_fits_the_target_worse(form: Form) -> None:
    torch.manual_seed(2)
    scale = 1.0 if form == "scaled" else 10.0  # powers of what is below 1 fall
    interests, targets = interests_of(unit_vectors(torch.rand(30, 4, 8)) * scale), unit_vectors(torch.rand(30, 3, 8))
    fits = [
        (label_aware_attention(interests, targets, power=power, form=form) * targets).sum(dim=2)
        for power in (0.1, 1.0, 10.0, 1e4)
    ]
    for duller, sharper in itertools.pairwise(fits):
        assert bool((sharper >= duller - 1e-4).all())


@both_forms
@pytest.mark.parametrize("power", [1.0, 8.0, 1e30])
def test_masked_interests_get_no_weight(form: Form, power: float) -> None:
    garbage = torch.full((1, 3, 2), 5.0)
    garbage[0, 1] = torch.tensor([-1.0, -1.0])
    interests = Interests(garbage, torch.tensor([[False, True, False]]), torch.zeros(1, 1, 3))
    assert label_aware_attention(interests, torch.ones(1, 1, 2), power=power, form=form).tolist() == [[[-1.0, -1.0]]]


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("power", [0.5, 8.0, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_values_and_gradients_are_finite_for_every_mask(
    form: Form, dtype: torch.dtype, power: float, scale: float
) -> None:
    mask = torch.tensor(list(itertools.product([False, True], repeat=3)))
    vectors = (torch.randn(8, 3, 4) * scale).to(dtype).requires_grad_()
    targets = torch.randn(8, 2, 4).to(dtype).requires_grad_()
    attended = label_aware_attention(interests_of(vectors, mask), targets, power=power, form=form)
    attended.float().sum().backward()
    assert attended.dtype == dtype
    assert not attended[0].any()
    assert vectors.grad is not None
    for values in (attended, vectors.grad, torch.zeros(1) if targets.grad is None else targets.grad):
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_a_power_that_is_not_above_zero_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        label_aware_attention(interests_of(torch.ones(1, 1, 1)), torch.ones(1, 1, 1), power=power)


@both_forms
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty_batches_give_empty_vectors(form: Form, shape: tuple[int, int]) -> None:
    users, targets = shape
    attended = label_aware_attention(
        interests_of(torch.ones(users, 2, 4)), torch.ones(users, targets, 4), power=2.0, form=form
    )
    assert attended.shape == (users, targets, 4)
