"""ComiRec's routing and attention, against their twins in plain loops."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from mind_dist.config import ComirecDrConfig
from mind_dist.model.comirec import PositionedRouting, SelfAttention
from mind_dist.model.interests import Behaviors
from mind_dist.model.routing import Routing, content_keyed_logits
from tests.reference import comirec_loops, mind_loops

LENGTHS, COUNTS = [7, 1, 3, 5, 2, 6], [3, 1, 2, 3, 2, 1]
USERS = list(enumerate(zip(LENGTHS, COUNTS, strict=True)))
INTERESTS = torch.arange(3) < torch.tensor(COUNTS)[:, None]


def histories(dim: int = 4) -> Behaviors:
    torch.manual_seed(0)
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    vectors = torch.randn(6, 7, dim, dtype=torch.float64).masked_fill(~mask[:, :, None], 0.0)
    return Behaviors(vectors, torch.arange(42).reshape(6, 7), mask)


def assert_equal(found: Routing, user: int, capsules: Tensor, coupling: Tensor) -> None:
    count, length = capsules.shape[0], coupling.shape[0]
    assert torch.allclose(found.capsules[user, :count], capsules, atol=1e-6)
    assert torch.allclose(found.coupling[user, :length, :count].double(), coupling, atol=1e-6)
    assert not found.capsules[user, count:].any()
    assert not found.coupling[user, length:].any()
    assert not found.coupling[user, :, count:].any()


@pytest.mark.parametrize("positions", [1, 4, 7, 20])
@pytest.mark.parametrize("start", ["zeros", "content_keyed"])
@pytest.mark.parametrize("num_iterations", [1, 3])
def test_routing_with_a_map_for_each_age_and_interest_equals_a_plain_loop_reference(
    positions: int, start: Literal["zeros", "content_keyed"], num_iterations: int
) -> None:
    section = ComirecDrConfig(positions=positions, start=start, iterations=num_iterations)
    behaviors = histories()
    extraction = PositionedRouting(4, 3, section).double()
    found = extraction(behaviors, behaviors.vectors, INTERESTS)
    logits = content_keyed_logits(behaviors.keys, 3).double() * (start != "zeros")
    for user, (length, count) in USERS:
        votes = comirec_loops.votes(behaviors.vectors[user, :length].tolist(), extraction.maps[:, :count].tolist())
        twins = mind_loops.vote_routing(votes, logits[user, :length, :count].tolist(), num_iterations)
        assert_equal(found, user, *(torch.tensor(twin, dtype=torch.float64) for twin in twins))


def test_gradients_of_the_maps_are_those_of_maps_taken_for_each_behavior() -> None:
    behaviors = histories()
    extraction = PositionedRouting(4, 3, ComirecDrConfig(positions=4)).double()
    direction = torch.randn(6, 7, 3, 4, dtype=torch.float64) * behaviors.mask[:, :, None, None]
    extraction._votes(behaviors.vectors, behaviors.mask).mul(direction).sum().backward()
    expected = torch.zeros_like(extraction.maps)
    for user, (length, _) in USERS:
        for place in range(length):
            age = min(length - 1 - place, 3)
            expected[age] += torch.einsum("d,ke->kde", behaviors.vectors[user, place], direction[user, place])
    assert torch.allclose(extraction.maps.grad, expected)  # type: ignore[arg-type]


def test_self_attention_equals_a_plain_loop_reference() -> None:
    behaviors = histories()
    extraction = SelfAttention(4, 3).double()
    placed = behaviors.vectors + torch.randn_like(behaviors.vectors)
    found = extraction(behaviors, placed, INTERESTS)
    assert extraction.hidden.weight.shape == (16, 4)
    for user, (length, count) in USERS:
        capsules, coupling = comirec_loops.self_attention(
            behaviors.vectors[user, :length].tolist(),
            placed[user, :length].tolist(),
            extraction.hidden.weight.tolist(),
            extraction.attention.weight[:count].tolist(),
        )
        by_behavior = torch.tensor(coupling, dtype=torch.float64).T
        assert_equal(found, user, torch.tensor(capsules, dtype=torch.float64), by_behavior)
