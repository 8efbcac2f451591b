"""User vectors × a pool of items → the sampled softmax loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional


def sampled_softmax_loss(
    users: Float[Tensor, "B T D"],
    target_mask: Bool[Tensor, "B T"],
    target_index: Int64[Tensor, "B T"],
    pool: Float[Tensor, "P D"],
    log_inclusion: Float[Tensor, " P"],
    *,
    temperature: float,
    mask_other_targets: bool = False,
) -> Float[Tensor, ""]:
    """Return the summed negative log likelihood of the targets among a pool of items.

    The pool holds each item once: the targets of all windows and the drawn negatives. So for every target, its own
    entry is the positive — an accidental hit cannot be its negative — and all others are negatives, none twice.

    The softmax's denominator is estimated by exp(own score) + Σ exp(score_i) / q_i over the other entries, q_i the
    probability that item i is in the pool: an unbiased (Horvitz–Thompson) estimate of the sum over all items.
    The target's own score is not corrected, since its window put it there with certainty (arXiv 2507.09331 shows
    the bias of correcting it, as the usual in-batch logQ does, Yi et al., RecSys 2019). With all items in the pool
    and q = 1 this is the full softmax.

    Args:
        users: One user vector per target (`label_aware_attention`).
        target_mask: True where real.
        target_index: Each target's place in the pool; any valid place where masked.
        pool: Item vectors, as scored; the items are distinct.
        log_inclusion: log q_i (`log_inclusion_probability`); zeros for no correction. It must be finite.
        temperature: Divides the scores.
        mask_other_targets: Leave a window's other targets out of the negatives of each.

    Returns:
        The sum over real targets: the caller divides by their number over all workers. 0, still with a graph, when
        there are none.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    target_index = target_index.masked_fill(~target_mask, 0)
    corrections = _corrections(target_mask, target_index, log_inclusion, mask_other_targets=mask_other_targets)
    logits = torch.add(corrections, (users @ pool.T).float(), alpha=1 / temperature)
    losses = functional.cross_entropy(logits.flatten(0, 1), target_index.flatten(), reduction="none")
    return losses.masked_fill(~target_mask.flatten(), 0.0).sum()


def log_inclusion_probability(
    in_batch: Float[Tensor, " P"],
    num_in_batch_draws: int,
    num_items: int,
    num_uniform_draws: int,
    *,
    num_workers: int = 1,
) -> Float[Tensor, " P"]:
    """Return log q_i, the log of the probability that an item is drawn into the pool at least once.

    It is drawn `num_in_batch_draws` times with its own probability, as a target, and each worker draws
    `num_uniform_draws` distinct ones of all items. So q = 1 - (1 - p)^n (1 - m/N)^w, kept exact for small and large
    q alike; 1 where the workers draw all items.

    Args:
        in_batch: Probability p that one target is this item: its share of all events. Above 0 wherever
            `num_uniform_draws` is 0, or the result is -inf.
        num_in_batch_draws: Targets n in the pool over all workers, the positive itself not counted.
        num_items: Items N.
        num_uniform_draws: Distinct items m that each worker draws evenly; more than N is N.
        num_workers: Workers w that draw.

    >>> log_inclusion_probability(torch.tensor([0.5]), 2, 4, 0).exp().item()
    0.75
    """
    drawn = torch.full_like(in_batch, min(num_uniform_draws / max(num_items, 1), 1.0))
    log_absent = _log_never(in_batch, num_in_batch_draws) + _log_never(drawn, num_workers)
    seldom = log_absent > -math.log(2)
    return torch.where(seldom, (-torch.expm1(log_absent)).log(), torch.log1p(-log_absent.exp()))


def _log_never(probability: Float[Tensor, " P"], num_draws: int) -> Float[Tensor, " P"]:
    """Return the log of the probability that none of some draws hits."""
    never: Tensor = torch.special.xlog1py(torch.full_like(probability, num_draws), -probability)
    return never


@torch.no_grad()
def _corrections(
    target_mask: Bool[Tensor, "B T"],
    target_index: Int64[Tensor, "B T"],
    log_inclusion: Float[Tensor, " P"],
    *,
    mask_other_targets: bool,
) -> Float[Tensor, "B T P"]:
    """Return what is added to every score: nothing for the target itself, -log q_i for the rest of the pool.

    One tensor, filled in place and without a graph: each further pass over [B, T, P] would cost as much as a step of
    the model.
    """
    own = target_index[:, :, None]
    corrections = (-log_inclusion).expand(*target_index.shape, -1).clone()
    if mask_other_targets:
        of_window = torch.where(target_mask[:, None, :], target_index[:, None, :], own)
        corrections.scatter_(-1, of_window, torch.finfo(corrections.dtype).min)
    return corrections.scatter_(-1, own, 0.0)
