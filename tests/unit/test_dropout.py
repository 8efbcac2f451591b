"""Dropout: what share is dropped, what is left, and whose chance it is."""

from __future__ import annotations

import pytest
import torch

from mind_dist.model.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_scaled_so_that_the_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(share)(torch.ones(1000, 1001))
    standard_error = (share * (1 - share) / dropped.numel()) ** 0.5
    assert abs((dropped == 0).double().mean() - share) < 5 * standard_error
    torch.testing.assert_close(dropped[dropped > 0].unique(), torch.tensor([1 / (1 - share)]))


def test_neighbors_are_dropped_independently() -> None:
    """Four elements come of one draw."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) > 0).view(-1, 4).double()
    correlations = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.double)
    assert correlations.abs().max() < 5 / len(kept) ** 0.5


def test_the_gradient_goes_through_what_is_left() -> None:
    torch.manual_seed(0)
    given = torch.randn(7, 3, requires_grad=True)
    dropped = Dropout(0.25)(given)
    dropped.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(dropped, given * given.grad)


def test_the_same_seed_drops_the_same_and_another_does_not() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(Dropout(0.5)(torch.ones(64)).tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_out_of_training_or_at_zero(share: float, training: bool) -> None:
    given = torch.randn(5, 2)
    assert Dropout(share).train(training)(given) is given or torch.equal(Dropout(share).train(training)(given), given)


def test_everything_is_dropped_at_one() -> None:
    assert not Dropout(1.0)(torch.ones(9)).any()


def test_nothing_and_an_empty_batch_stay_empty() -> None:
    assert Dropout(0.5)(torch.ones(0, 4)).shape == (0, 4)
