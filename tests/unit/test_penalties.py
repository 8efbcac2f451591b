"""The penalties, against their twins in plain loops and by their properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.penalties import balance_penalty, routing_penalty, spread_penalty
from tests.reference import penalty_loops

COUNTS, NUM_TARGETS, LENGTHS = [3, 2, 0, 1, 3], [2, 1, 0, 3, 2], [5, 4, 0, 2, 6]


def problem() -> tuple[Interests, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.arange(3) < torch.tensor(COUNTS)[:, None]
    vectors = torch.randn(5, 3, 4, dtype=torch.float64).masked_fill(~mask[..., None], 0.0)
    targets = torch.randn(5, 3, 4, dtype=torch.float64)
    return (
        Interests(vectors, mask, mask[:, None].double()),
        targets,
        torch.arange(3) < torch.tensor(NUM_TARGETS)[:, None],
    )


def real(rows: Tensor, counts: list[int]) -> list[list[list[float]]]:
    return [user[:count].tolist() for user, count in zip(rows, counts, strict=True)]


@pytest.mark.parametrize("margin", [-1.0, 0.0, 0.5])
def test_the_spread_penalty_equals_a_plain_loop_reference(margin: float) -> None:
    interests, _, _ = problem()
    expected = penalty_loops.spread(real(interests.vectors, COUNTS), margin)
    assert spread_penalty(interests, margin).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("windows", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [0, 0, 0, 0, 0]])
def test_the_balance_penalty_equals_a_plain_loop_reference(windows: list[int], temperature: float) -> None:
    interests, targets, mask = problem()
    found = balance_penalty(interests, targets, mask, torch.tensor(windows), temperature)
    ends = list(zip(windows, real(interests.vectors, COUNTS), real(targets, NUM_TARGETS), strict=True))
    parts = [
        ([v for at, v, _ in ends if at == w], [t for at, _, t in ends if at == w]) for w in range(max(windows) + 1)
    ]
    assert found.item() == pytest.approx(penalty_loops.balance(parts, 3, temperature), rel=1e-5)


def population(num_windows: int) -> tuple[Interests, Tensor, Tensor]:
    """Return windows of two ends whose first interest wins more than the others, [num_windows · 2, …]."""
    generator = torch.Generator().manual_seed(4)
    targets = torch.randn(2 * num_windows, 3, 4, generator=generator) + torch.tensor([0.8, 0.0, 0.0, 0.0])
    mask = torch.ones(2 * num_windows, 4, dtype=torch.bool)
    target_mask = torch.rand(2 * num_windows, 3, generator=generator) < 0.7
    interests = Interests(torch.eye(4).expand(2 * num_windows, -1, -1), mask, mask[:, None].float())
    return interests, targets, target_mask


def test_the_balance_penalty_is_expected_to_be_the_same_for_batches_of_any_size() -> None:
    interests, targets, target_mask = population(66)
    generator = torch.Generator().manual_seed(5)

    def of_batch(windows: Tensor) -> float:
        ends = (windows[:, None] * 2 + torch.arange(2)).flatten()
        numbers = torch.arange(len(windows)).repeat_interleave(2)
        part = Interests(*(part[ends] for part in interests))
        return balance_penalty(part, targets[ends], target_mask[ends], numbers, 0.2).item()

    def expected(size: int, num_batches: int) -> float:
        chosen = (torch.randperm(66, generator=generator)[:size] for _ in range(num_batches))
        return sum(map(of_batch, chosen)) / num_batches

    everybody = of_batch(torch.arange(66))
    assert everybody > 0.1, "there is something to see"
    pairs = torch.combinations(torch.arange(66))
    assert sum(map(of_batch, pairs)) / len(pairs) == pytest.approx(everybody, rel=1e-3), "every pair once: exact"
    assert expected(8, 1000) == pytest.approx(everybody, rel=0.1)
    assert expected(64, 50) == pytest.approx(everybody, rel=0.05)


def test_the_routing_penalty_equals_a_plain_loop_reference() -> None:
    interests, _, _ = problem()
    real_behaviors = (torch.arange(6) < torch.tensor(LENGTHS)[:, None])[:, :, None]
    coupling = torch.rand(5, 6, 3).masked_fill(~(real_behaviors & interests.mask[:, None, :]), 0.0).double()
    twins = [
        coupling[user, :length, :count].T.tolist()
        for user, (length, count) in enumerate(zip(LENGTHS, COUNTS, strict=True))
        if length
    ]
    assert routing_penalty(coupling, interests.mask).item() == pytest.approx(penalty_loops.routing(twins), rel=1e-6)


def test_means_do_not_grow_with_the_batch() -> None:
    interests, _, _ = problem()
    twice = Interests(*(torch.cat([part, part]) for part in interests))
    coupling = torch.rand(5, 6, 3) * interests.mask[:, None, :]
    for once, double in [
        (spread_penalty(interests, 0.0), spread_penalty(twice, 0.0)),
        (routing_penalty(coupling, interests.mask), routing_penalty(torch.cat([coupling, coupling]), twice.mask)),
    ]:
        assert double.item() == pytest.approx(once.item(), rel=1e-5)


def test_interests_apart_by_more_than_the_margin_cost_nothing_and_equal_ones_the_most() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    apart, alike = (Interests(v, mask, mask[:, None].float()) for v in (torch.eye(3)[None], torch.ones(1, 3, 4)))
    assert spread_penalty(apart, 0.0).item() == 0
    assert spread_penalty(alike, 0.25).item() == pytest.approx(0.75**2, rel=1e-5)


def test_interests_that_win_the_same_cost_nothing_and_one_that_wins_all_the_most() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    interests = Interests(torch.eye(3).expand(2, -1, -1), mask, mask[:, None].float())
    all_won, one_won = torch.eye(3).expand(2, -1, -1), torch.eye(3)[:1].expand(2, 3, -1)
    windows = torch.arange(2)
    assert balance_penalty(interests, all_won, mask, windows, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert balance_penalty(interests, one_won, mask, windows, 0.01).item() == pytest.approx(2, rel=1e-6)


def test_even_attention_costs_nothing() -> None:
    interests, _, _ = problem()
    assert routing_penalty(torch.full((5, 6, 3), 1 / 6), interests.mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_users", [0, 2])
def test_users_without_interests_cost_nothing_with_finite_gradients(num_users: int) -> None:
    mask = torch.zeros(num_users, 3, dtype=torch.bool)
    vectors, targets = (torch.zeros(num_users, 3, 4, requires_grad=True) for _ in range(2))
    coupling = torch.zeros(num_users, 5, 3, requires_grad=True)
    interests = Interests(vectors, mask, coupling)
    loss = spread_penalty(interests, 0.0) + balance_penalty(interests, targets, mask, torch.arange(num_users), 0.1)
    loss = loss + routing_penalty(coupling, mask)
    loss.backward()
    assert loss.item() == 0
    for part in (vectors, targets, coupling):
        assert part.grad is not None
        assert not part.grad.any()
