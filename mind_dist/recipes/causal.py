"""The default recipe, a causal encoder trained at every position, and what is made of it for news and for a log."""

from __future__ import annotations

import dataclasses

from mind_dist.config import (
    BestConfig,
    CausalConfig,
    LagKernelsConfig,
    ModelConfig,
    PenaltiesConfig,
    SampledConfig,
    TrainingConfig,
)
from mind_dist.recipes.recipe import Recipe


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
        epochs=0,  # as many as the valid users say; 3 where there are none: no set that was tried is far from its best then
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
        epochs=3,
    )
    return dataclasses.replace(recipe, training=training)


def stream() -> Recipe:
    """Return `best` for the events of a log as they come: each is one target after its user's whole history before it.

    There is no next pass, no end, and nothing that comes later: so no decay, one target, no warm start. It is made to go
    on with a version of `best` (`--init-from`), whose model it has. Trials on the valid users of Online Retail II, cut
    in time, chose the rates and the size of a step (docs/quality.md).
    """
    recipe = best()
    training = dataclasses.replace(
        recipe.training,
        batch_size=512,
        num_targets=1,
        every_position=False,
        warm_start="none",
        learning_rate=0.001,  # a rate that forgets less
        young_learning_rate=0.03,  # one by which an item is learned while it is new
        lr_decay=False,
    )
    return dataclasses.replace(recipe, training=training)
