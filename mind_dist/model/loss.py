"""Interests × a pool of items → scores → the sampled softmax loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from mind_dist.model.attention import label_aware_attention
from mind_dist.model.interests import Interests


def label_aware_scores(
    interests: Interests, targets: Float[Tensor, "B T D"], pool: Float[Tensor, "P D"], power: float
) -> Float[Tensor, "B T P"]:
    """Score the pool for each target by the user as that target sees it (`label_aware_attention`)."""
    return label_aware_attention(interests, targets, power) @ pool.T


def best_interest_scores(interests: Interests, pool: Float[Tensor, "P D"]) -> Float[Tensor, "B P"]:
    """Score each item of the pool by the best of a user's interests, as when served; zeros without interests."""
    scores = (interests.vectors @ pool.T).masked_fill(~interests.mask[:, :, None], -math.inf)
    return scores.amax(dim=1).masked_fill(~interests.mask.any(dim=1, keepdim=True), 0.0)


def sampled_softmax_loss(
    scores: Float[Tensor, "B T P"],
    target_mask: Bool[Tensor, "B T"],
    target_index: Int64[Tensor, "B T"],
    log_inclusion: Float[Tensor, " P"],
    *,
    temperature: float,
    mask_other_targets: bool = False,
    hard_negative_beta: float = 0.0,
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
        scores: What each target's user scores the items of the pool, which are distinct.
        target_mask: True where real.
        target_index: Each target's place in the pool; any valid place where masked.
        log_inclusion: log q_i (`log_inclusion_probability`); zeros for no correction, inf for an item that is in the
            pool as a target only and no negative of others.
        temperature: Divides the scores.
        mask_other_targets: Leave a window's other targets out of the negatives of each.
        hard_negative_beta: Weigh negatives by exp(beta · logit), with mean 1 (REMI, arXiv 2302.14532, equation 8).

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
    logits = scores.float() / temperature
    weights = _hard_weights(logits, corrections, target_index, hard_negative_beta) if hard_negative_beta else 0.0
    logits = logits + corrections + weights
    losses = functional.cross_entropy(logits.flatten(0, 1), target_index.flatten(), reduction="none")
    return losses.masked_fill(~target_mask.flatten(), 0.0).sum()


def log_inclusion_probability(
    in_batch: Float[Tensor, " P"], num_in_batch_draws: int, drawn: Float[Tensor, " P"], num_draws: int
) -> Float[Tensor, " P"]:
    """Return log q_i, the log of the probability that an item is drawn into the pool at least once.

    It is drawn `num_in_batch_draws` times as a target, and `num_draws` times as a negative. So
    q = 1 - (1 - p)^n (1 - p')^n', kept exact for small and large q alike.

    Args:
        in_batch: Probability p that one target is this item: its share of all events.
        num_in_batch_draws: Targets n in the pool, the positive itself not counted.
        drawn: Probability p' that one draw is this item. One of the two must be above 0 and drawn from, or the
            result is -inf.
        num_draws: Draws n', with replacement.

    >>> log_inclusion_probability(torch.tensor([0.5]), 2, torch.tensor([0.1]), 0).exp().item()
    0.75
    """
    log_absent = _log_never(in_batch, num_in_batch_draws) + _log_never(drawn, num_draws)
    seldom = log_absent > -math.log(2)
    return torch.where(seldom, (-torch.expm1(log_absent)).log(), torch.log1p(-log_absent.exp()))


def _log_never(probability: Float[Tensor, " P"], num_draws: int) -> Float[Tensor, " P"]:
    """Return the log of the probability that none of some draws hits."""
    never: Tensor = torch.special.xlog1py(torch.full_like(probability, num_draws), -probability)
    return never


def _hard_weights(
    logits: Float[Tensor, "B T P"], corrections: Float[Tensor, "B T P"], own: Int64[Tensor, "B T"], beta: float
) -> Float[Tensor, "B T P"]:
    """Return log weights of the negatives, β · logit less the log of its mean weight over all items; 0 for the target."""
    lowest = torch.finfo(logits.dtype).min
    own_place = own[:, :, None]
    negatives = corrections.scatter(-1, own_place, lowest)
    mean = (beta * logits + negatives).logsumexp(-1, keepdim=True) - negatives.logsumexp(-1, keepdim=True)
    return (beta * logits - mean).scatter(-1, own_place, 0.0)


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
