"""MIND as a whole, by its properties."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mind_dist.model as model_package
from mind_dist.config import ModelConfig
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.model.routing import content_keyed_logits
from tests.reference import mind_loops

CONFIG = ModelConfig(dim=8, num_interests=3, hidden_dims=(10, 6), num_profile_features=2, context_dim=3)


def trained(config: ModelConfig = CONFIG) -> MultiInterestModel:
    """Return a model whose parameters are all away from where they start."""
    torch.manual_seed(0)
    model = MultiInterestModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def batch(num_users: int, longest: int) -> tuple[Behaviors, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, longest + 1, (num_users, 1), generator=random)
    keys = torch.randint(-(1 << 62), 1 << 62, (num_users, longest), generator=random)
    vectors = torch.randn(num_users, longest, CONFIG.dim, generator=random)
    behaviors = Behaviors(vectors, keys, torch.arange(longest) < lengths)
    profile = torch.randn(num_users, CONFIG.num_profile_features, CONFIG.dim, generator=random)
    return behaviors, profile, torch.randn(num_users, CONFIG.context_dim, generator=random)


def padded(behaviors: Behaviors, length: int) -> Behaviors:
    """Return the behaviors padded to a length with what must never be looked at."""
    num_users, present, dim = behaviors.vectors.shape
    rest = length - present
    return Behaviors(
        torch.cat([behaviors.vectors, torch.full((num_users, rest, dim), float("nan"))], dim=1),
        torch.cat([behaviors.keys, torch.full((num_users, rest), 77)], dim=1),
        torch.cat([behaviors.mask, torch.zeros(num_users, rest, dtype=torch.bool)], dim=1),
    )


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_padding_never_changes_interests(adaptive: bool, normalize: bool) -> None:
    model = trained(replace(CONFIG, adaptive_interests=adaptive, normalize=normalize))
    behaviors, profile, context = batch(40, 20)
    short, long = model(behaviors, profile, context), model(padded(behaviors, 200), profile, context)
    assert torch.equal(short.mask, long.mask)
    assert torch.allclose(short.vectors, long.vectors, atol=1e-5)
    assert torch.allclose(short.weights, long.weights, atol=1e-6)


def test_the_same_history_gives_bit_equal_vectors() -> None:
    behaviors, profile, context = batch(20, 12)
    first, again = trained()(behaviors, profile, context), trained()(behaviors, profile, context)
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))


def test_the_order_of_behaviors_does_not_matter() -> None:
    model, (behaviors, profile, context) = trained(), batch(20, 12)
    turned = Behaviors(*(part.flip(1) for part in behaviors))
    assert torch.allclose(
        model(behaviors, profile, context).vectors, model(turned, profile, context).vectors, atol=1e-5
    )


def test_a_fresh_model_gives_the_capsules_of_routing_in_plain_loops() -> None:
    config = ModelConfig(dim=4, num_interests=3, adaptive_interests=False, normalize=False)
    vectors, keys = torch.randn(1, 6, 4), torch.arange(6)[None]
    found = MultiInterestModel(config)(Behaviors(vectors, keys, torch.ones(1, 6, dtype=torch.bool)))
    logits = content_keyed_logits(keys, 3)
    capsules, coupling = mind_loops.routing(vectors[0].tolist(), logits[0].tolist(), config.routing_iterations)
    assert torch.allclose(found.vectors[0], torch.tensor(capsules), atol=1e-5)
    assert torch.allclose(found.weights[0], torch.tensor(coupling).mean(dim=0), atol=1e-5)


def test_interests_are_of_length_one_and_weights_sum_to_one_where_there_are_behaviors() -> None:
    behaviors, profile, context = batch(40, 20)
    interests = trained()(behaviors, profile, context)
    real = behaviors.mask.any(dim=1)
    assert torch.allclose(interests.vectors.norm(dim=2), interests.mask.float(), atol=1e-5)
    assert torch.allclose(interests.weights.sum(dim=1), real.float(), atol=1e-5)
    assert not interests.weights[~interests.mask].any()
    assert torch.equal(interests.mask.any(dim=1), real)


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_number_of_interests_follows_the_length_when_adaptive(adaptive: bool) -> None:
    model = MultiInterestModel(ModelConfig(dim=4, num_interests=4, adaptive_interests=adaptive))
    lengths = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 40])
    mask = torch.arange(40) < lengths[:, None]
    found = model(Behaviors(torch.randn(10, 40, 4), torch.arange(400).reshape(10, 40), mask)).mask.sum(dim=1)
    assert found.tolist() == ([0, 1, 1, 1, 2, 2, 3, 3, 4, 4] if adaptive else [0] + [4] * 9)


def test_profile_and_context_reach_every_interest() -> None:
    model, (behaviors, profile, context) = trained(), batch(30, 20)
    plain = model(behaviors, profile, context)
    for other in (model(behaviors, profile + 1, context), model(behaviors, profile, context + 1)):
        changed = (other.vectors != plain.vectors).any(dim=2)
        assert torch.equal(changed, plain.mask)


@pytest.mark.parametrize(
    ("profile", "context", "named"),
    [
        (None, (2, 3), "profile"),
        ((2, 1, 8), (2, 3), "profile"),
        ((2, 2, 8), None, "context"),
        ((2, 2, 8), (2, 4), "context"),
    ],
)
def test_a_profile_or_context_that_the_config_does_not_name_is_refused(
    profile: tuple[int, ...] | None, context: tuple[int, ...] | None, named: str
) -> None:
    behaviors, _, _ = batch(2, 3)
    with pytest.raises(ValueError, match=f"{named} has width"):
        trained()(behaviors, profile and torch.zeros(profile), context and torch.zeros(context))


def loss_of(interests: Interests) -> Tensor:
    return (interests.vectors.float() + interests.weights[..., None].float()).square().sum()


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_gradients_are_finite_for_every_mask(adaptive: bool, fresh: bool, scale: float) -> None:
    config = replace(CONFIG, adaptive_interests=adaptive)
    model = MultiInterestModel(config) if fresh else trained(config)
    mask = torch.tensor(list(itertools.product([False, True], repeat=5)))
    vectors = (torch.randn(len(mask), 5, CONFIG.dim) * scale).requires_grad_()
    profile, context = torch.zeros(len(mask), 2, CONFIG.dim), torch.zeros(len(mask), 3)
    keys = torch.arange(len(mask) * 5).reshape(len(mask), 5)
    loss_of(model(Behaviors(vectors, keys, mask), profile, context)).backward()
    assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in [vectors, *model.parameters()])


@pytest.mark.parametrize(("num_users", "length"), [(0, 5), (0, 0), (3, 0)])
def test_an_empty_batch_still_reaches_every_parameter(num_users: int, length: int) -> None:
    model = trained()
    vectors = torch.zeros(num_users, length, CONFIG.dim, requires_grad=True)
    keys = torch.zeros(num_users, length, dtype=torch.int64)
    profile = torch.zeros(num_users, CONFIG.num_profile_features, CONFIG.dim)
    loss_of(model(Behaviors(vectors, keys, keys.bool()), profile, torch.zeros(num_users, 3))).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_runs_finite_and_close(dtype: torch.dtype) -> None:
    model, (behaviors, profile, context) = trained(), batch(30, 20)
    exact = model(behaviors, profile, context)
    low = Behaviors(behaviors.vectors.to(dtype), behaviors.keys, behaviors.mask)
    found = trained().to(dtype)(low, profile.to(dtype), context.to(dtype))
    loss_of(found).backward()
    assert found.vectors.dtype == dtype
    cosines = (found.vectors.float() * exact.vectors).sum(dim=2)[exact.mask]
    assert float(cosines.detach().quantile(0.1)) > 0.98


def test_autocast_to_bfloat16_runs_finite() -> None:
    model, (behaviors, profile, context) = trained(), batch(30, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(behaviors, profile, context)
    loss_of(found).backward()
    assert bool(found.vectors.isfinite().all())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_model_knows_nothing_of_other_workers() -> None:
    sources = Path(str(model_package.__path__[0])).glob("*.py")
    assert not [source.name for source in sources if "distributed" in source.read_text()]
