"""Recipes: named settings of model and training, each value with the paper or the measurement behind it.

`docs/quality.md` has what each of them reaches, beside what teams use today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mind_dist.config import (
    BestConfig,
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    HardConfig,
    LagKernelsConfig,
    MindConfig,
    ModelConfig,
    PenaltiesConfig,
    SampledConfig,
    TrainingConfig,
    TwoTowerConfig,
    check_together,
)


@dataclass(frozen=True)
class Recipe:
    """What a model is and how it is trained.

    Attributes:
        model: The model.
        training: How it is trained.
    """

    model: ModelConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        check_together(self.model, self.training)


def best() -> Recipe:
    """Return the default of `jobs/train` and of the demo: a causal encoder, trained at every position.

    Where no paper is named, trials on MovieLens-1M and Online Retail II chose the value (docs/quality.md).
    """
    model = ModelConfig(
        extraction=CausalConfig(),
        encoder=LagKernelsConfig(),  # beat attention pooling and a transformer layer at minutes of CPU
        num_interests=4,
        adaptive_interests=False,
        separate_item_vectors=False,  # two vectors an item overfit where items have few events
        hidden_dims=(128,),
        dropout=0.2,
    )
    training = TrainingConfig(
        batch_size=800,  # 16 windows of 50: many small steps beat few large ones
        max_behaviors=50,
        num_targets=10,  # all of the next ten: what comes when is chance, what comes soon is not
        every_position=True,
        objective=BestConfig(),  # negatives too: what is trained is what is searched by
        negatives=SampledConfig(
            count=512,
            power=0.5,
            in_batch=False,  # at 512 drawn ones they double the time of a step, and add nothing
        ),
        warm_start="cooccurrence",  # half the steps
        penalties=PenaltiesConfig(
            spread_weight=2.0,
            balance_weight=0.6,  # without it one interest wins every place; with a sixth of it over half, on Beauty
        ),
        epochs=3,  # Online Retail II loses with more
    )
    return Recipe(model, training)


def news() -> Recipe:
    """Return `best` for items that live a few days: what is recommended came after training, so features decide.

    Trials on the valid users of a generated newsroom chose the values (docs/quality.md).
    """
    recipe = best()
    training = dataclasses.replace(
        recipe.training,
        id_dropout=0.9,  # nearly every item as it is met when served: made of its features alone
        warm_start="none",  # what follows what in a newsroom is first of all what was there at the same time
        temperature=0.2,
    )
    return dataclasses.replace(recipe, training=training)


def mind_paper() -> Recipe:
    """Return MIND (arXiv 1904.08030): B2I routing, adaptive interests, ReLU layers, a hard label-aware choice."""
    model = ModelConfig(
        extraction=MindConfig(iterations=3),  # Algorithm 1
        adaptive_interests=True,  # section 4.3.2
        hidden_dims=(256,),  # section 4.4: ReLU layers on each capsule; the paper does not give their width
    )
    return Recipe(model, _hard_choice())


def comirec_dr_paper() -> Recipe:
    """Return ComiRec-DR (arXiv 2005.09347): routing with a matrix per position and interest, zero logits."""
    model = ModelConfig(
        extraction=ComirecDrConfig(
            positions=20,  # section 4.1: histories of 20
            start="zeros",  # Algorithm 1
            iterations=3,
        ),
        adaptive_interests=False,
        hidden_dims=(),
    )
    return Recipe(model, _hard_choice())


def comirec_sa_paper() -> Recipe:
    """Return ComiRec-SA (arXiv 2005.09347): self-attention with hidden width 4 · D, positions, a hard choice."""
    return Recipe(_self_attention(), _next_item())


def remi_paper() -> Recipe:
    """Return REMI (arXiv 2302.14532): ComiRec-SA with hard negatives and the routing regulariser."""
    training = _next_item()
    negatives = dataclasses.replace(training.negatives, hard_beta=1.0)  # section 4.1.4, and the weight
    training = dataclasses.replace(training, negatives=negatives, penalties=PenaltiesConfig(routing_weight=100.0))
    return Recipe(_self_attention(), training)


def two_tower() -> Recipe:
    """Return the traditional two-tower: the mean of the behaviors through ReLU layers."""
    model = ModelConfig(extraction=TwoTowerConfig(), num_interests=1, hidden_dims=(128,))
    return Recipe(model, _next_item())


def _self_attention() -> ModelConfig:
    return ModelConfig(
        extraction=ComirecSaConfig(recency=200),
        adaptive_interests=False,
        hidden_dims=(),
        separate_item_vectors=True,  # interests are means of behaviors; targets that need not be near them: .210 → .258
    )


def _next_item() -> TrainingConfig:
    """Return how the papers train: the next item after a window, told from sampled items; but with our loss.

    The papers' inner products, uncorrected and with a learning rate of 0.001, take hours to come as far: in trials
    logQ, unit vectors and a temperature were worth more than any interest module, and so is a warm start to routing
    (MIND .173 → .196, DR .214 → .240). Figures here and below are R@50 on MovieLens-1M, history kept.
    """
    return TrainingConfig(
        batch_size=128,  # ComiRec, section 4.1
        num_targets=1,
        objective=HardConfig(),
        negatives=SampledConfig(count=1280),  # ten for each example, ComiRec, section 4.1
        window_stride=8,  # windows of the same user differ little: an epoch is shorter, and no worse
        warm_start="cooccurrence",
        epochs=4,
    )


def _hard_choice() -> TrainingConfig:
    """Return the same with the hard choice made for each negative too, and on more than the very next item.

    MIND finds larger powers of its label-aware attention better, up to the hard choice (section 5.3). Where a target's
    choice also scores its negatives, nothing keeps the other interests from ranking these above it. .196 → .244 (MIND),
    .240 → .311 (DR).
    """
    return dataclasses.replace(_next_item(), objective=BestConfig(), num_targets=10)


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        each.__name__: each
        for each in (best, news, two_tower, mind_paper, comirec_dr_paper, comirec_sa_paper, remi_paper)
    }
)
"""Name → recipe."""
