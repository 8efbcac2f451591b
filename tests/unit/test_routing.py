"""Dynamic routing, against its twin in plain loops and by its properties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mind_dist.model.routing import (
    b2i_dynamic_routing,
    content_keyed_logits,
    dynamic_routing,
    farthest_point_logits,
    num_adaptive_interests,
    squash,
)
from tests.reference import mind_loops

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def everything(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
def test_routing_equals_a_plain_loop_reference(num_iterations: int) -> None:
    torch.manual_seed(0)
    behaviors, logits = torch.randn(6, 7, 5, dtype=torch.float64), torch.randn(6, 7, 4, dtype=torch.float64)
    lengths, counts = torch.tensor([7, 1, 3, 5, 2, 6]), torch.tensor([4, 1, 2, 3, 4, 1])
    behavior_mask, interest_mask = torch.arange(7) < lengths[:, None], torch.arange(4) < counts[:, None]
    found = b2i_dynamic_routing(behaviors, behavior_mask, interest_mask, logits, num_iterations=num_iterations)
    for user, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        capsules, coupling = mind_loops.routing(
            behaviors[user, :length].tolist(), logits[user, :length, :count].tolist(), num_iterations
        )
        assert torch.allclose(found.capsules[user, :count], torch.tensor(capsules, dtype=torch.float64), atol=1e-9)
        assert torch.allclose(found.coupling[user, :length, :count], torch.tensor(coupling, dtype=torch.float64))
        assert not found.capsules[user, count:].any()
        assert not found.coupling[user, length:].any()


@pytest.mark.parametrize("num_iterations", [1, 2, 4])
def test_routing_of_votes_equals_a_plain_loop_reference(num_iterations: int) -> None:
    torch.manual_seed(0)
    votes, logits = torch.randn(3, 6, 4, 5, dtype=torch.float64), torch.randn(3, 6, 4, dtype=torch.float64)
    lengths, counts = torch.tensor([6, 1, 4]), torch.tensor([4, 1, 3])
    mask = (torch.arange(6) < lengths[:, None])[:, :, None] & (torch.arange(4) < counts[:, None])[:, None, :]
    found = dynamic_routing(votes, mask, logits, num_iterations=num_iterations)
    for user, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        capsules, coupling = mind_loops.vote_routing(
            votes[user, :length, :count].tolist(), logits[user, :length, :count].tolist(), num_iterations
        )
        assert torch.allclose(found.capsules[user, :count], torch.tensor(capsules, dtype=torch.float64), atol=1e-9)
        assert torch.allclose(found.coupling[user, :length, :count], torch.tensor(coupling, dtype=torch.float64))
        assert not found.capsules[user, count:].any()
        assert not found.coupling[user, length:].any()


def test_a_behavior_that_says_the_same_to_all_interests_is_routed_as_one_that_is_mapped_once() -> None:
    torch.manual_seed(0)
    behaviors, logits, mask = torch.randn(4, 6, 5), torch.randn(4, 6, 3), torch.rand(4, 6, 1) < 0.7
    votes = behaviors[:, :, None].expand(-1, -1, 3, -1)
    routed = dynamic_routing(votes, mask.expand(-1, -1, 3), logits)
    expected = b2i_dynamic_routing(behaviors, mask[:, :, 0], everything(4, 3), logits)
    assert torch.allclose(routed.capsules, expected.capsules, atol=1e-6)
    assert torch.allclose(routed.coupling, expected.coupling, atol=1e-6)


def test_farthest_points_are_those_of_a_plain_loop_reference() -> None:
    torch.manual_seed(0)
    behaviors, lengths = torch.randn(8, 9, 4), torch.tensor([9, 1, 2, 3, 5, 8, 9, 4])
    mask = torch.arange(9) < lengths[:, None]
    logits = farthest_point_logits(behaviors, mask, 4)
    for user, length in enumerate(lengths.tolist()):
        real = behaviors[user, :length].tolist()
        points = mind_loops.farthest_points(real, 4)
        expected = [[10 * mind_loops.cosine(behavior, real[point]) for point in points] for behavior in real]
        assert torch.allclose(logits[user, :length], torch.tensor(expected), atol=1e-5)


def test_as_many_far_points_as_behaviors_are_all_of_them() -> None:
    behaviors = torch.randn(1, 5, 4)
    logits = farthest_point_logits(behaviors, everything(1, 5), 5)[0]
    assert sorted(logits.argmax(dim=0).tolist()) == [0, 1, 2, 3, 4]
    assert logits.argmax(dim=0)[0] == 4, "the newest comes first"


def test_far_points_of_users_without_behaviors_are_finite() -> None:
    logits = farthest_point_logits(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), 4)
    assert bool(logits.isfinite().all())


def test_each_real_behavior_is_shared_out_whole_among_the_interests() -> None:
    behavior_mask = torch.tensor([[True, True, False], [False, False, False]])
    interest_mask = torch.tensor([[True, False, True], [True, True, True]])
    routed = b2i_dynamic_routing(torch.randn(2, 3, 4), behavior_mask, interest_mask, torch.randn(2, 3, 3))
    assert torch.allclose(routed.coupling.sum(dim=2), behavior_mask.float())
    assert not routed.coupling[0, :, 1].any()


def test_equal_logits_would_keep_all_interests_the_same() -> None:
    routed = b2i_dynamic_routing(torch.randn(1, 6, 4), everything(1, 6), everything(1, 3), torch.zeros(1, 6, 3))
    assert torch.allclose(routed.capsules[:, :1].expand_as(routed.capsules), routed.capsules)


def test_gradients_flow_through_the_last_iteration_only() -> None:
    torch.manual_seed(1)
    behaviors, logits = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    routed = b2i_dynamic_routing(behaviors, everything(2, 5), everything(2, 3), logits)
    assert not routed.coupling.requires_grad
    routed.capsules.square().sum().backward()
    assert logits.grad is None
    constant = routed.coupling.detach()
    twin = behaviors.detach().requires_grad_()
    squash(torch.einsum("blk,bld->bkd", constant, twin)).square().sum().backward()
    assert torch.allclose(behaviors.grad, twin.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e2])
def test_gradients_are_finite_for_every_mask(dtype: torch.dtype, scale: float) -> None:
    masks = list(itertools.product([False, True], repeat=5))
    behavior_mask, interest_mask = torch.tensor([m[:3] for m in masks]), torch.tensor([m[3:] for m in masks])
    behaviors = (torch.randn(len(masks), 3, 4) * scale).to(dtype).requires_grad_()
    logits = torch.randn(len(masks), 3, 2)
    routed = b2i_dynamic_routing(behaviors, behavior_mask, interest_mask, logits)
    routed.capsules.float().sum().backward()
    assert bool(routed.capsules.isfinite().all())
    assert behaviors.grad is not None
    assert bool(behaviors.grad.isfinite().all())
    assert routed.capsules.dtype == dtype


def test_fewer_than_one_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        b2i_dynamic_routing(
            torch.ones(1, 1, 1), everything(1, 1), everything(1, 1), torch.ones(1, 1, 1), num_iterations=0
        )
    with pytest.raises(ValueError, match="at least 1"):
        dynamic_routing(torch.ones(1, 1, 1, 1), everything(1, 1, 1), torch.ones(1, 1, 1), num_iterations=0)


def test_squash_keeps_the_direction_and_bounds_the_length() -> None:
    vectors = torch.randn(20, 3, dtype=torch.float64) * torch.logspace(-3, 3, 20, dtype=torch.float64)[:, None]
    expected = torch.tensor([mind_loops.squash(vector) for vector in vectors.tolist()], dtype=torch.float64)
    assert torch.allclose(squash(vectors), expected, atol=1e-8)
    assert bool((squash(vectors).norm(dim=1) < 1).all())
    assert squash(torch.zeros(3)).tolist() == [0, 0, 0]


@given(length=st.integers(0, 1 << 60), most=st.integers(1, 70))
def test_the_number_of_interests_is_the_rounded_down_logarithm(length: int, most: int) -> None:
    # Lengths beyond 2**53 may round up to the next power of two in float64; no history is that long.
    length = min(length, 1 << 53)
    expected = max(1, min(most, length.bit_length() - 1))
    assert num_adaptive_interests(torch.tensor([length]), most).item() == expected


@given(keys=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=5))
def test_content_keyed_logits_are_those_of_the_reference_to_the_last_bit(keys: list[int]) -> None:
    found = content_keyed_logits(torch.tensor([keys]), 3)
    expected = [[mind_loops.content_keyed_logit(key, interest) for interest in range(3)] for key in keys]
    assert torch.equal(found, torch.tensor([expected], dtype=torch.float32))


def test_content_keyed_logits_are_nearly_normal_and_differ_between_interests() -> None:
    logits = content_keyed_logits(torch.arange(50_000)[None], 4)[0]
    assert torch.allclose(logits.mean(dim=0), torch.zeros(4), atol=0.02)
    assert torch.allclose(logits.std(dim=0), torch.ones(4), atol=0.02)
    assert torch.allclose(torch.corrcoef(logits.T), torch.eye(4), atol=0.02)
    within_one = float((logits.abs() < 1).double().mean())
    assert abs(within_one - math.erf(1 / math.sqrt(2))) < 0.02
