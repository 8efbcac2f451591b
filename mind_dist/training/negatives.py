"""What targets are told from: items drawn, and targets of others; and how likely each was to be among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mind_dist.config import NegativesConfig, SampledConfig, TrainingConfig
from mind_dist.examples.batches import Batch
from mind_dist.keys import no_context
from mind_dist.model.item_tower import ItemFeatures
from mind_dist.model.objectives.inclusion import log_inclusion_probability
from mind_dist.records import Keys
from mind_dist.training.collectives import Collectives
from mind_dist.training.draws import DrawLaw
from mind_dist.training.item_table import ItemTable
from mind_dist.training.positions import TrainedPositions
from mind_dist.training.step_inputs import StepInputs


def step_inputs(
    batch: Batch,
    table: ItemTable,
    generator: np.random.Generator,
    features: ItemFeatures,
    *,
    config: TrainingConfig,
    every: bool,
    ranks: Collectives,
    context_features: Sequence[str] = (),
) -> StepInputs:
    """Choose what a step trains, and what it is told from. Collective.

    Args:
        batch: This rank's.
        table: The rows there are.
        generator: Where chance comes from.
        features: Side features of items.
        config: How negatives are chosen.
        every: Train every position of the windows, not only their ends.
        ranks: The other ranks.
        context_features: Names of the contexts that the model is asked in.
    """
    examples, section = batch.examples, config.negatives
    if isinstance(section, SampledConfig):
        drawn = table.sample_items(section.count, generator, _law(section))
    else:
        drawn = table.all_items()
    trained = TrainedPositions.every(examples) if every else TrainedPositions.after_window(examples)
    if context_features:
        trained = trained.in_contexts(
            generator.random(trained.ends.shape) >= config.context_dropout, no_context(context_features), table.has
        )
    return StepInputs.of(
        examples,
        trained,
        drawn,
        table,
        features,
        shared=_shared_targets(trained, ranks, section),
        id_dropout=config.id_dropout,
        generator=generator,
    )


def _shared_targets(trained: TrainedPositions, ranks: Collectives, section: NegativesConfig) -> Keys | None:
    """Return the items of all target events that are negatives of each other; None where they are not. Collective."""
    if not (isinstance(section, SampledConfig) and section.in_batch):
        return None
    keys, real = trained.events
    return np.concatenate([part.numpy() for part in ranks.gather(torch.from_numpy(keys[real]))])


def log_inclusion(inputs: StepInputs, table: ItemTable, section: NegativesConfig) -> Float[Tensor, "S P"]:
    """Return the log of how likely each item of the pool was to be there, as each of the N ends has it.

    Windows are drawn independently of each other, so what another one targets may be any event: an item is there by the
    n events of the other windows with 1 - (1 - p)^n, p its share of all events. An event counts once for its window,
    however many positions are told it; one that two windows have counts for both, as both might have had another.
    Of what its own window targets, a position knows that it is in the pool: there q is 1. The events of one window are
    taken as independent, too, which makes q a little large for items that users come back to.

    Args:
        inputs: This rank's part of the step.
        table: For the items' shares.
        section: How negatives are drawn.

    Returns:
        A row for each end that is trained; or one for all of them, where they have the same: zeros without the
        correction.
    """
    if not isinstance(section, SampledConfig) or section.logq == "none":
        return torch.zeros(1, len(inputs.pool))
    shares = torch.from_numpy(table.sighting_shares(inputs.pool_keys)).float()
    draws = torch.from_numpy(table.draw_shares(inputs.pool_keys, _law(section))).float()
    if not inputs.num_shared:  # no window has put anything there
        return log_inclusion_probability(shares, 0, draws, section.count)[None]
    others = (inputs.num_shared - inputs.num_own)[:, None]
    of_windows = log_inclusion_probability(shares, others, draws, section.count)
    with_spare = torch.nn.functional.pad(of_windows, (0, 1))
    with_spare.scatter_(1, inputs.own_in_pool % with_spare.shape[1], 0.0)  # -1, for none, is the spare column
    return with_spare[inputs.windows[inputs.trained], :-1]


def own_log_inclusion(inputs: StepInputs, table: ItemTable, section: NegativesConfig) -> Float[Tensor, "S T"] | None:
    """Return the log of how likely each target was to be drawn, at the ends that are trained; None for no correction."""
    if not isinstance(section, SampledConfig) or section.logq != "all":
        return None
    draws = torch.from_numpy(table.draw_shares(inputs.targeted_keys, _law(section))).float()
    found = log_inclusion_probability(torch.zeros_like(draws), 0, draws, section.count)
    return found[inputs.targets[inputs.trained]] if len(found) else torch.zeros(0, inputs.targets.shape[1])


def _law(section: SampledConfig) -> DrawLaw:
    return DrawLaw(section.distribution, section.power)
