"""Every model, by the properties that all of them share: kinds, sequence encoders and options in one suite."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mind_dist.model as model_package
from mind_dist.config import (
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    GruConfig,
    LagKernelsConfig,
    MindConfig,
    ModelConfig,
    TransformerConfig,
    TwoTowerConfig,
)
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.model.routing import content_keyed_logits
from tests.reference import mind_loops

CONFIG = ModelConfig(
    dim=8,
    num_interests=3,
    hidden_dims=(16, 12),
    num_profile_features=2,
    context_features=("page",),
)
KINDS = {
    "two_tower": replace(CONFIG, extraction=TwoTowerConfig(), num_interests=1),
    "two_tower by attention": replace(CONFIG, extraction=TwoTowerConfig(pooling="attention"), num_interests=1),
    "mind": CONFIG,
    "mind from far points": replace(CONFIG, extraction=MindConfig(start="farthest_point")),
    "comirec_dr": replace(CONFIG, extraction=ComirecDrConfig(positions=7, start="content_keyed")),
    "comirec_dr from zeros": replace(CONFIG, extraction=ComirecDrConfig(positions=7)),
    "comirec_sa": replace(CONFIG, extraction=ComirecSaConfig()),
    "causal": replace(CONFIG, extraction=CausalConfig(max_lag=7)),
}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal, lag kernels": ("causal", {"encoder": LagKernelsConfig(count=2, hidden_dim=6, max_lag=7)}),
    "mind, gru": ("mind", {"encoder": GruConfig(hidden_dim=6, layers=2)}),
    "mind, transformer": ("mind", {"encoder": TransformerConfig(hidden_dim=6, layers=2, positions=7)}),
    "comirec_sa, recency": ("comirec_sa", {"extraction": ComirecSaConfig(recency=7)}),
    "two_tower by attention, recency": (
        "two_tower by attention",
        {"extraction": TwoTowerConfig(pooling="attention", recency=7)},
    ),
    "mind, any length": ("mind", {"normalize": False}),
    "causal, always all": ("causal", {"adaptive_interests": False}),
    "comirec_dr, shallow head": ("comirec_dr", {"hidden_dims": ()}),
    "causal, plain head": ("causal", {"hidden_dims": (), "num_profile_features": 0, "context_features": ()}),
    "comirec_sa, plain head": ("comirec_sa", {"hidden_dims": (), "num_profile_features": 0, "context_features": ()}),
}
"""Each option once, with a kind that a recipe has it with or that it could break."""

MODELS = KINDS | {name: replace(KINDS[kind], **changed) for name, (kind, changed) in OPTIONS.items()}

every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def trained(config: ModelConfig = CONFIG) -> MultiInterestModel:
    """Return a model whose parameters are all away from where they start."""
    torch.manual_seed(0)
    model = MultiInterestModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def asked(config: ModelConfig, num_users: int, longest: int) -> tuple[Behaviors, Tensor | None, Tensor | None]:
    """Return histories of all lengths, with the profiles and contexts that a model takes."""
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, longest + 1, (num_users, 1), generator=random)
    keys = torch.randint(-(1 << 62), 1 << 62, (num_users, longest), generator=random)
    vectors = torch.randn(num_users, longest, config.dim, generator=random)
    behaviors = Behaviors(vectors, keys, torch.arange(longest) < lengths)
    profile = torch.randn(num_users, config.num_profile_features, config.dim, generator=random)
    context = torch.randn(num_users, config.context_dim, generator=random)
    return behaviors, profile if profile.numel() else None, context if context.numel() else None


def spoiled(behaviors: Behaviors, length: int) -> Behaviors:
    """Return the behaviors padded to a length; what is not real becomes what must never be looked at."""
    num_users, present, dim = behaviors.vectors.shape
    rest = length - present
    vectors = behaviors.vectors.masked_fill(~behaviors.mask[:, :, None], torch.nan)
    return Behaviors(
        torch.cat([vectors, torch.full((num_users, rest, dim), torch.nan)], dim=1),
        torch.cat([behaviors.keys.masked_fill(~behaviors.mask, 77), torch.full((num_users, rest), -3)], dim=1),
        torch.cat([behaviors.mask, torch.zeros(num_users, rest, dtype=torch.bool)], dim=1),
    )


def loss_of(interests: Interests) -> Tensor:
    return (interests.vectors.float() + interests.weights[..., None].float()).square().sum()


def assert_finite_gradients(parts: list[Tensor]) -> None:
    assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in parts)


def assert_same(found: Interests, expected: Interests) -> None:
    assert torch.equal(found.mask, expected.mask)
    assert torch.allclose(found.vectors, expected.vectors, atol=1e-5)
    assert torch.allclose(found.weights, expected.weights, atol=1e-5)
    length = expected.coupling.shape[1]
    assert torch.allclose(found.coupling[:, :length], expected.coupling, atol=1e-5)
    assert not found.coupling[:, length:].any()


@every_model
def test_padding_never_changes_interests(config: ModelConfig) -> None:
    model, (behaviors, profile, context) = trained(config), asked(config, 40, 20)
    plain = model(behaviors, profile, context)
    for length in (20, 200):
        assert_same(model(spoiled(behaviors, length), profile, context), plain)


@every_model
def test_interests_at_an_end_are_those_of_the_history_up_to_it(config: ModelConfig) -> None:
    model, (behaviors, profile, _) = trained(config), asked(config, 12, 16)
    lengths = behaviors.mask.sum(dim=1)
    ends = (torch.rand(12, 5, generator=torch.Generator().manual_seed(2)) * (lengths[:, None] + 1)).long() - 1
    _, _, contexts = asked(config, 12 * 5, 16)
    found = model(behaviors, profile, contexts, ends)
    repeated = Behaviors(*(part.repeat_interleave(5, dim=0) for part in behaviors))
    beginnings = repeated._replace(mask=torch.arange(16) <= ends.flatten()[:, None])
    of_beginnings = None if profile is None else profile.repeat_interleave(5, dim=0)
    assert_same(found, model(spoiled(beginnings, 16), of_beginnings, contexts))
    assert torch.equal(found.mask.any(dim=1), ends.flatten() >= 0)
    assert not found.vectors[ends.flatten() < 0].any()


@every_model
def test_the_last_end_alone_gives_the_interests_of_the_whole_history(config: ModelConfig) -> None:
    model, (behaviors, profile, context) = trained(config), asked(config, 20, 12)
    last = behaviors.mask.sum(dim=1, keepdim=True) - 1
    assert_same(model(behaviors, profile, context, last), model(behaviors, profile, context))


@every_model
def test_the_same_history_gives_bit_equal_vectors(config: ModelConfig) -> None:
    given = asked(config, 20, 12)
    first, again = trained(config)(*given), trained(config)(*given)
    for left, right in zip(first, again, strict=True):
        assert torch.equal(left, right) if left is not None else right is None


@every_model
def test_interests_are_finite_and_zero_where_there_are_none(config: ModelConfig) -> None:
    behaviors, profile, context = asked(config, 40, 20)
    interests = trained(config)(behaviors, profile, context)
    assert bool(interests.vectors.isfinite().all())
    assert torch.equal(interests.mask, interests.vectors.any(dim=2))
    if config.normalize:
        assert torch.allclose(interests.vectors.norm(dim=2), interests.mask.float(), atol=1e-5)


@every_model
def test_weights_sum_to_one_where_there_are_behaviors(config: ModelConfig) -> None:
    behaviors, profile, context = asked(config, 40, 20)
    interests = trained(config)(behaviors, profile, context)
    real = behaviors.mask.any(dim=1)
    assert torch.allclose(interests.weights.sum(dim=1), real.float(), atol=1e-5)
    assert not interests.weights[~interests.mask].any()


@every_model
def test_the_number_of_interests_follows_the_length_when_adaptive(config: ModelConfig) -> None:
    lengths = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 40])
    mask = torch.arange(40) < lengths[:, None]
    behaviors = Behaviors(torch.randn(10, 40, 8), torch.arange(400).reshape(10, 40), mask)
    _, profile, context = asked(config, 10, 40)
    found = MultiInterestModel(config)(behaviors, profile, context).mask.sum(dim=1)
    adaptive, most = torch.tensor([0, 1, 1, 1, 2, 2, 3, 3, 4, 4]), config.num_interests
    expected = adaptive.clamp(max=most) if config.adaptive_interests else lengths.clamp(max=1) * most
    assert torch.equal(found, expected)


@pytest.mark.parametrize("config", [each for each in MODELS.values() if each.context_dim])
def test_profile_and_context_reach_every_interest(config: ModelConfig) -> None:
    model, (behaviors, profile, context) = trained(config), asked(config, 30, 20)
    assert profile is not None
    assert context is not None
    plain = model(behaviors, profile, context)
    for other in (model(behaviors, profile + 9, context), model(behaviors, profile, context + 9)):
        changed = (other.vectors != plain.vectors).any(dim=2)
        assert torch.equal(changed, plain.mask)


@every_model
def test_gradients_are_finite_for_every_history(config: ModelConfig) -> None:
    lengths = torch.arange(6)
    mask = torch.arange(5) < lengths[:, None]
    keys = torch.arange(6 * 5).reshape(6, 5)
    _, profile, context = asked(config, 6, 5)
    for fresh, scale in itertools.product([True, False], [0.0, 1e-6, 1.0]):
        model = MultiInterestModel(config) if fresh else trained(config)
        vectors = (torch.randn(6, 5, config.dim) * scale).requires_grad_()
        loss_of(model(Behaviors(vectors, keys, mask), profile, context)).backward()
        assert_finite_gradients([vectors, *model.parameters()])


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_gradients_of_routing_are_finite_for_every_mask(adaptive: bool, fresh: bool, scale: float) -> None:
    config = replace(CONFIG, adaptive_interests=adaptive)
    model = MultiInterestModel(config) if fresh else trained(config)
    mask = torch.tensor(list(itertools.product([False, True], repeat=5)))
    vectors = (torch.randn(len(mask), 5, CONFIG.dim) * scale).requires_grad_()
    profile, context = torch.zeros(len(mask), 2, CONFIG.dim), torch.zeros(len(mask), CONFIG.dim)
    keys = torch.arange(len(mask) * 5).reshape(len(mask), 5)
    loss_of(model(Behaviors(vectors, keys, mask), profile, context)).backward()
    assert_finite_gradients([vectors, *model.parameters()])


@every_model
@pytest.mark.parametrize("num_ends", [None, 2])
def test_an_empty_batch_still_reaches_every_parameter(config: ModelConfig, num_ends: int | None) -> None:
    model = trained(config)
    for num_users, length in [(0, 5), (0, 0), (3, 0), (3, 5)]:
        model.zero_grad()
        keys = torch.zeros(num_users, length, dtype=torch.int64)
        behaviors = Behaviors(torch.zeros(num_users, length, config.dim), keys, keys.bool())
        profile = torch.zeros(num_users, config.num_profile_features, config.dim)
        context = torch.zeros(num_users * (num_ends or 1), config.context_dim)
        joined = (profile if config.num_profile_features else None, context if config.context_dim else None)
        ends = None if num_ends is None else torch.full((num_users, num_ends), -1)
        interests = model(behaviors, *joined, ends)
        assert interests.mask.shape == (num_users * (num_ends or 1), config.num_interests)
        loss_of(interests).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()


@every_model
def test_training_reaches_every_parameter(config: ModelConfig) -> None:
    model, given = trained(config), asked(config, 40, 20)
    (model(*given).vectors @ torch.arange(1.0, 9.0)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_runs_finite_and_close(config: ModelConfig, dtype: torch.dtype) -> None:
    behaviors, profile, context = asked(config, 30, 20)
    exact, model = trained(config)(behaviors, profile, context), trained(config).to(dtype)
    low = [None if part is None else part.to(dtype) for part in (profile, context)]
    found = model(behaviors._replace(vectors=behaviors.vectors.to(dtype)), *low)
    loss_of(found).backward()
    assert found.vectors.dtype == dtype
    assert_finite_gradients(list(model.parameters()))
    cosines = torch.cosine_similarity(found.vectors.float(), exact.vectors, dim=2)[exact.mask]
    assert float(cosines.detach().quantile(0.2)) > 0.98


@every_model
def test_autocast_to_bfloat16_runs_finite(config: ModelConfig) -> None:
    model, given = trained(config), asked(config, 30, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(*given)
    loss_of(found).backward()
    assert bool(found.vectors.isfinite().all())
    assert_finite_gradients(list(model.parameters()))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "comirec_sa, plain head"])  # it has no layers
def test_dropout_acts_in_training_alone(name: str) -> None:
    config = MODELS[name]
    model, given = trained(replace(config, dropout=0.5)), asked(config, 30, 20)
    exact = trained(config)(*given)
    first, second = model(*given), model(*given)
    if config.hidden_dims:
        assert not torch.equal(first.vectors, second.vectors)
    for _ in range(2):
        assert_same(model.eval()(*given), exact)


@every_model
def test_inference_gives_the_interests_of_training(config: ModelConfig) -> None:
    model, given = trained(config), asked(config, 30, 20)
    exact = model(*given)
    with torch.inference_mode():
        assert_same(model.eval()(*given), exact)


@pytest.mark.parametrize("kind", ["two_tower", "two_tower by attention", "mind"])
def test_the_order_of_behaviors_does_not_matter_where_nothing_looks_at_it(kind: str) -> None:
    model, (behaviors, profile, context) = trained(KINDS[kind]), asked(CONFIG, 20, 12)
    turned = Behaviors(*(part.flip(1) for part in behaviors))
    expected, found = model(behaviors, profile, context), model(turned, profile, context)
    assert torch.allclose(found.vectors, expected.vectors, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *("comirec_dr", "two_tower by attention, recency", "comirec_sa, recency", "causal"),
        *("causal, lag kernels", "mind, gru", "mind, transformer"),
    ],
)
def test_the_order_of_behaviors_matters_where_something_looks_at_it(name: str) -> None:
    model, (behaviors, profile, context) = trained(MODELS[name]), asked(CONFIG, 20, 4)
    behaviors = behaviors._replace(mask=torch.ones(20, 4, dtype=torch.bool))
    swapped = Behaviors(*(part[:, [0, 1, 3, 2]] for part in behaviors))
    expected, found = model(behaviors, profile, context), model(swapped, profile, context)
    assert bool((found.vectors - expected.vectors).abs().amax(dim=(1, 2)).gt(1e-5).all())


@pytest.mark.parametrize("kind", ["mind", "mind from far points", "comirec_dr", "comirec_dr from zeros", "comirec_sa"])
def test_a_trained_model_tells_its_interests_apart(kind: str) -> None:
    interests = trained(KINDS[kind])(*asked(CONFIG, 40, 20))
    alike = interests.vectors @ interests.vectors.transpose(1, 2)
    pairs = interests.mask[:, :, None] & interests.mask[:, None, :] & ~torch.eye(3, dtype=torch.bool)
    assert bool((alike[pairs] < 1 - 1e-6).all())


def test_a_fresh_model_gives_the_capsules_of_routing_in_plain_loops() -> None:
    config = ModelConfig(dim=4, num_interests=3, adaptive_interests=False, normalize=False)
    vectors, keys = torch.randn(1, 6, 4), torch.arange(6)[None]
    found = MultiInterestModel(config)(Behaviors(vectors, keys, torch.ones(1, 6, dtype=torch.bool)))
    logits = content_keyed_logits(keys, 3)
    capsules, coupling = mind_loops.routing(vectors[0].tolist(), logits[0].tolist(), num_iterations=3)
    assert torch.allclose(found.vectors[0], torch.tensor(capsules), atol=1e-5)
    assert torch.allclose(found.weights[0], torch.tensor(coupling).mean(dim=0), atol=1e-5)


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
    behaviors, _, _ = asked(CONFIG, 2, 3)
    with pytest.raises(ValueError, match=f"{named} has width"):
        trained()(behaviors, profile and torch.zeros(profile), context and torch.zeros(context))


def test_the_model_knows_nothing_of_other_workers() -> None:
    sources = Path(str(model_package.__path__[0])).rglob("*.py")
    assert not [source.name for source in sources if "distributed" in source.read_text()]
