"""The papers' models as the papers train them, for comparison: `mind_dist.recipes.multi_interest` does better.

One vector an item, from chance; inner products; the next item after a window, told from ten negatives an example by
the sampled softmax of the authors' own code; Adam at .001 all the way. Where a paper and its code leave a value open, trials
on valid users of MovieLens-1M chose it (docs/quality.md).
"""

from __future__ import annotations

import dataclasses

from mind_dist.config import (
    ComirecDrConfig,
    ComirecSaConfig,
    HardConfig,
    LabelAwareConfig,
    MindConfig,
    ModelConfig,
    PenaltiesConfig,
    SampledConfig,
    TrainingConfig,
)
from mind_dist.recipes.recipe import Recipe


def mind_paper() -> Recipe:
    """Return MIND (arXiv 1904.08030): B2I routing, adaptive interests, ReLU layers, label-aware attention."""
    model = ModelConfig(
        extraction=MindConfig(iterations=3),  # Algorithm 1
        adaptive_interests=True,  # section 4.3.2
        hidden_dims=(256,),  # section 4.4: ReLU layers on each capsule; the paper does not give their width
        normalize=False,
    )
    training = dataclasses.replace(_sampled_softmax(), objective=LabelAwareConfig(form="power", power=2.0))
    return Recipe(model, training)


def comirec_dr_paper() -> Recipe:
    """Return ComiRec-DR (arXiv 2005.09347): routing with a matrix per position and interest, a hard choice."""
    model = ModelConfig(
        extraction=ComirecDrConfig(
            positions=50,  # section 4.1: histories of 20 or 50
            start="zeros",  # Algorithm 1
            iterations=3,
        ),
        adaptive_interests=False,
        hidden_dims=(),
        normalize=False,
    )
    return Recipe(model, _sampled_softmax())


def comirec_sa_paper() -> Recipe:
    """Return ComiRec-SA (arXiv 2005.09347): self-attention with hidden width 4 · D, positions, a hard choice."""
    training = dataclasses.replace(_sampled_softmax(), epochs=36)  # of 4, 12 and 36, by the valid users
    return Recipe(_self_attention(), training)


def remi_paper() -> Recipe:
    """Return REMI (arXiv 2302.14532): ComiRec-SA with hard negatives, drawn evenly, and the routing regulariser."""
    negatives = SampledConfig(count=1280, in_batch=False, logq="none", hard_beta=1.0)  # section 4.1.4, and the weight
    training = dataclasses.replace(
        _sampled_softmax(),
        negatives=negatives,
        penalties=PenaltiesConfig(routing_weight=100.0),
        epochs=24,  # of 12 and 24, by the valid users
    )
    return Recipe(_self_attention(), training)


def _self_attention() -> ModelConfig:
    return ModelConfig(
        extraction=ComirecSaConfig(recency=50), adaptive_interests=False, hidden_dims=(), normalize=False
    )


def _sampled_softmax() -> TrainingConfig:
    """Return how ComiRec's code trains: TensorFlow's sampled softmax, which corrects the target's score, too."""
    return TrainingConfig(
        objective=HardConfig(),  # equation 7
        negatives=SampledConfig(
            count=1280,  # section 4.1: ten for each example
            distribution="log_uniform",  # TensorFlow's default, over items by falling counts
            logq="all",
            in_batch=False,
        ),
        temperature=1.0,
        batch_size=128,
        num_targets=1,
        window_stride=8,
        learning_rate=0.001,
        lr_decay=False,
        epochs=12,  # as far as it was tried: MIND and ComiRec-DR may still rise
    )
