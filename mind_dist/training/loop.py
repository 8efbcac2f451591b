"""Batches → steps: the whole of training, plain PyTorch, from top to bottom.

    for report in train(model, optimizer, table, batches, config=config, …):
        ...  # report, save, or stop: whoever iterates decides

Every rank runs the same loop over partitions of its own. Ranks that have run dry go on with empty batches, so that
every collective is joined by all; the loss is the mean over the targets of all ranks, however unequal their shares.
Gradients are averaged here, and not by DistributedDataParallel, whose collectives do not hear of a rank that has failed:
the dense parameters are few, and one message takes them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mind_dist.config import ModelConfig, TrainingConfig
from mind_dist.errors import TrainingError
from mind_dist.examples.batches import Batch
from mind_dist.model.interests import Interests
from mind_dist.model.item_bag import score_vectors
from mind_dist.model.item_tower import ItemFeatures
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.model.objectives import Candidates, objective_of
from mind_dist.model.objectives.penalties import balance_penalty, routing_penalty, spread_penalty
from mind_dist.records import Positions
from mind_dist.training.collectives import Collectives, SingleRank
from mind_dist.training.item_table import ItemTable
from mind_dist.training.negatives import log_inclusion, own_log_inclusion, step_inputs
from mind_dist.training.schedule import LearningRate
from mind_dist.training.step_inputs import StepInputs


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did.

    Attributes:
        step: Steps done, this one included.
        num_examples: Examples of all ranks; 0 when live logs were silent and nothing was done.
        loss: Mean over the targets of all ranks, in nats; NaN when there were none.
        learning_rate: As used.
        positions: Where this rank goes on after the step.
        watermark_ms: Time of this rank's newest example in the step, 0 without one.
        is_save_due: Whether a rank asked, before the step, for a save after it.
    """

    step: int
    num_examples: int
    loss: float
    learning_rate: float
    positions: Positions
    watermark_ms: int
    is_save_due: bool = False


def train(
    model: MultiInterestModel,
    optimizer: torch.optim.Optimizer,
    table: ItemTable,
    batches: Iterable[Batch],
    *,
    model_config: ModelConfig,
    config: TrainingConfig,
    features: ItemFeatures,
    empty_batch: Batch,
    learning_rate: LearningRate,
    observe: bool = False,
    first_step: int = 0,
    collectives: Collectives | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    should_save: Callable[[], bool] = lambda: False,
    before_step: Callable[[int, Batch], None] = lambda _step, _batch: None,
) -> Iterator[StepReport]:
    """Train until all ranks have run dry, `max_steps` are done, or a rank is asked to stop.

    Args:
        model: The model and its item tower, the same on all ranks.
        optimizer: Over the model's parameters.
        table: The item, feature and profile rows.
        batches: This rank's.
        model_config: For the widths and normalisation.
        config: Everything else.
        features: Side features of items.
        empty_batch: What a rank without examples of its own begins with, and goes on with when it has run dry.
        learning_rate: By steps done before.
        observe: Count the targets as sightings (for an event log; a dataset's counts are known before).
        first_step: Steps done before.
        collectives: The other ranks.
        should_stop: Asked before every step; when any rank says so, all end after that step.
        should_save: The same for a save: all ranks are told of it in that step's report.
        before_step: Told the steps done, and what is trained next. Collective.

    Raises:
        TrainingError: A loss or gradient of this rank is not finite; the message names step and tensor. Call it under
            `failing_together`, and all ranks raise it.
    """
    ranks = collectives or SingleRank()
    step = first_step
    positions = empty_batch.positions
    upcoming = iter(batches)
    while not config.max_steps or step < config.max_steps:
        # 1. Agree: does anybody have a batch?
        own = next(upcoming, None)
        batch = Batch(empty_batch.examples, positions) if own is None else own
        alive, num_examples, stop, save = ranks.sum([own is not None, len(batch), should_stop(), should_save()])
        if not alive:
            return
        positions = batch.positions
        if num_examples:
            before_step(step, batch)
            # 2. Rows: what is seen gets one, negatives are drawn, every distinct row is looked up once.
            if observe:
                table.observe(batch.examples.targets[batch.examples.target_mask], batch.watermark_ms)
            generator = np.random.default_rng([config.seed, step, ranks.rank])
            every = config.every_position and not observe
            inputs = step_inputs(
                batch,
                table,
                generator,
                features,
                config=config,
                every=every,
                ranks=ranks,
                context_features=model_config.context_features,
            )
            rows, (num_targets,) = table.lookup(inputs.row_keys, also=[inputs.num_targets])
            _seed_dropout(int(generator.integers(1 << 63)), rows.device)
            # 3. Forward and backward: this rank's share of the mean over all targets.
            loss, tensors = _loss(model, rows, inputs, table, model_config=model_config, config=config)
            if not math.isfinite(loss.item()):
                raise _not_finite("loss", step, tensors)
            optimizer.zero_grad()
            (loss * ranks.world_size / max(1.0, num_targets)).backward()
            # 4. Update: touched rows where they live, and dense parameters, all gradients averaged over ranks.
            _check_gradients(model, rows, step)
            rate = learning_rate(step)
            total = _average_gradients(model, ranks, loss.item())
            table.apply_gradients(rate, config.young_learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            step += 1
            mean = total / num_targets if num_targets else math.nan
            yield StepReport(step, int(num_examples), mean, rate, positions, batch.watermark_ms, bool(save))
        else:
            yield StepReport(step, 0, math.nan, 0.0, positions, 0, bool(save))
        if stop:
            return


def _loss(
    model: MultiInterestModel,
    rows: Float[Tensor, "U R"],
    inputs: StepInputs,
    table: ItemTable,
    *,
    model_config: ModelConfig,
    config: TrainingConfig,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return this rank's summed loss, and by name what it was computed from."""
    dim, device, hard_beta = model_config.dim, rows.device, config.negatives.hard_beta
    objective = objective_of(config.objective, temperature=config.temperature, hard_beta=hard_beta)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
        items = model.item_tower(rows, inputs.parts.to(device))
        behaviors = inputs.behaviors(items[:, :dim], rows[:, :dim])
        profiles, contexts = inputs.profiles(rows[:, :dim]), inputs.contexts(rows[:, :dim])
        interests: Interests = model(behaviors, profiles, contexts, inputs.ends.to(device))
        interests = interests.take(inputs.trained.to(device))
        candidates = _candidates(inputs, table, items[:, -dim:], normalize=model_config.normalize, config=config)
        loss = objective(interests, candidates)
        penalty = _penalty(interests, candidates, inputs.windows[inputs.trained].to(device), config)
    tensors = {
        "item rows": rows,
        "interests": interests.vectors,
        "pool": candidates.pool,
        "loss": loss,
        "penalties": penalty,
    }
    return loss + inputs.num_targets * penalty, tensors


def _candidates(
    inputs: StepInputs, table: ItemTable, items: Float[Tensor, "I D"], *, normalize: bool, config: TrainingConfig
) -> Candidates:
    """Return what the ends that have a target are to find, and the negatives."""
    device, trained = items.device, inputs.trained
    pool, targeted = (
        score_vectors(items[part.to(device)], normalize=normalize) for part in (inputs.pool, inputs.targeted)
    )
    own = own_log_inclusion(inputs, table, config.negatives)
    return Candidates(
        targets=nn.functional.embedding(inputs.targets[trained].to(device), targeted),
        target_mask=inputs.target_mask[trained].to(device),
        pool=pool,
        targets_in_pool=inputs.targets_in_pool[trained].to(device),
        log_inclusion=log_inclusion(inputs, table, config.negatives).to(device),
        own_log_inclusion=None if own is None else own.to(device),
    )


def _penalty(
    interests: Interests, candidates: Candidates, windows: Int64[Tensor, " N"], config: TrainingConfig
) -> Float[Tensor, ""]:
    """Return the weighted sum of the penalties, as they are expected of any user."""
    section, penalty = config.penalties, interests.vectors.new_zeros(())
    if section.spread_weight:
        penalty = penalty + section.spread_weight * spread_penalty(interests, section.spread_margin)
    if section.balance_weight:
        balance = balance_penalty(interests, candidates.targets, candidates.target_mask, windows, config.temperature)
        penalty = penalty + section.balance_weight * balance
    if section.routing_weight:
        penalty = penalty + section.routing_weight * routing_penalty(interests.coupling, interests.mask)
    return penalty


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Key what a step drops, so that a resume drops the same; `torch.manual_seed` takes a millisecond."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _check_gradients(model: nn.Module, rows: Tensor, step: int) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if rows.grad is not None:
        gradients["item rows"] = rows.grad
    if not math.isfinite(sum(gradient.sum().item() for gradient in gradients.values())):
        raise _not_finite("gradient", step, gradients)


def _average_gradients(model: nn.Module, ranks: Collectives, loss: float) -> float:
    """Average the dense gradients over ranks, of which one without examples may have none; return the sum of the losses."""
    if ranks.world_size > 1:
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    (total,) = ranks.average(gradients, also=[loss])
    return total


def _not_finite(what: str, step: int, tensors: dict[str, Tensor]) -> TrainingError:
    at_fault = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    where = f"first in {at_fault[0]}" if at_fault else "though what it is made of is"
    return TrainingError(
        f"step {step + 1}: the {what} is not finite, {where}; the last checkpoint is kept: "
        "lower training.learning_rate, or look for broken input, and start again"
    )
