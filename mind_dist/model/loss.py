"""Scores of targets and of a pool of negatives → the sampled softmax loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor
from torch.nn import functional


def sampled_softmax_loss(
    own: Float[Tensor, "B T"],
    scores: Float[Tensor, "B S P"],
    target_mask: Bool[Tensor, "B T"],
    target_index: Int64[Tensor, "B T"],
    log_inclusion: Float[Tensor, "#B P"],
    *,
    temperature: float,
    hard_negative_beta: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the summed negative log likelihood of the targets among a pool of negatives.

    The pool holds each item once, and no target of a user is a negative of another of the same user, nor its own: so
    accidental hits do not count, and nothing counts twice.

    The softmax's denominator is estimated by exp(own score) + Σ exp(score_i) / q_i over the pool, q_i the
    probability that item i is in the pool: an unbiased (Horvitz–Thompson) estimate of the sum over all items.
    The target's own score is not corrected, since its window put it there with certainty (arXiv 2507.09331 shows
    the bias of correcting it, as the usual in-batch logQ does, Yi et al., RecSys 2019). With all items in the pool
    and q = 1 this is the full softmax.

    Args:
        own: What each target's user scores the target.
        scores: And the items of the pool, which are distinct; S is T, or 1 where all targets see the same.
        target_mask: True where real.
        target_index: Each target's place in the pool, -1 where it is not in it; anything where masked.
        log_inclusion: log q_i (`log_inclusion_probability`), [B, P], or [1, P] where all users have the same; zeros for
            no correction. It must be finite.
        temperature: Divides the scores.
        hard_negative_beta: Weigh negatives by exp(beta · logit), with mean 1 (REMI, arXiv 2302.14532, equation 8).

    Returns:
        The sum over real targets: the caller divides by their number over all workers. 0, still with a graph, when
        there are none.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    corrections = _corrections(target_index.masked_fill(~target_mask, -1), log_inclusion)
    logits = torch.add(corrections, scores.float(), alpha=1 / temperature)
    if hard_negative_beta:
        logits = logits + _hard_weights(scores.float() / temperature, corrections, hard_negative_beta)
    positive = own.float() / temperature
    losses = torch.logaddexp(positive, _log_sum(logits)) - positive
    return losses.masked_fill(~target_mask, 0.0).sum()


def log_inclusion_probability(
    in_batch: Float[Tensor, " P"],
    num_in_batch_draws: Num[Tensor, "*W 1"] | int,
    drawn: Float[Tensor, " P"],
    num_draws: int,
) -> Float[Tensor, "*W P"]:
    """Return log q_i, the log of the probability that an item is drawn into the pool at least once.

    It is drawn `num_in_batch_draws` times as a target, and `num_draws` times as a negative. So
    q = 1 - (1 - p)^n (1 - p')^n', kept exact for small and large q alike.

    Args:
        in_batch: Probability p that one target is this item: its share of all events.
        num_in_batch_draws: Targets n of others in the pool; a tensor gives q for each of its numbers.
        drawn: Probability p' that one draw is this item. One of the two must be above 0 and drawn from, or the
            result is -inf.
        num_draws: Draws n', with replacement.

    >>> log_inclusion_probability(torch.tensor([0.5]), 2, torch.tensor([0.1]), 0).exp().item()
    0.75
    """
    log_absent = _log_never(in_batch, num_in_batch_draws) + _log_never(drawn, num_draws)
    seldom = log_absent > -math.log(2)
    return torch.where(seldom, (-torch.expm1(log_absent)).log(), torch.log1p(-log_absent.exp()))


def _log_never(probability: Float[Tensor, " P"], num_draws: Num[Tensor, "*W 1"] | int) -> Float[Tensor, "*W P"]:
    """Return the log of the probability that none of some draws hits."""
    never: Tensor = torch.special.xlog1py(torch.as_tensor(num_draws, dtype=probability.dtype), -probability)
    return never


@torch.no_grad()
def _corrections(left_out: Int64[Tensor, "B T"], log_inclusion: Float[Tensor, "#B P"]) -> Float[Tensor, "B 1 P"]:
    """Return what is added to every score: -log q_i, and the lowest number for the places that are left out.

    One tensor, filled in place and without a graph: each further pass over it would cost as much as a step of the model.
    """
    num_items = log_inclusion.shape[1]
    with_spare = (-functional.pad(log_inclusion, (0, 1))).expand(len(left_out), -1).clone()
    places = left_out.where(left_out >= 0, num_items)  # those of none fall into a spare column
    with_spare.scatter_(-1, places, torch.finfo(with_spare.dtype).min)
    return with_spare[:, None, :num_items]


def _log_sum(logits: Float[Tensor, "B S P"]) -> Float[Tensor, "B S"]:
    """Return log Σ exp; the lowest number, with a graph, for an empty pool."""
    if logits.shape[-1] == 0:
        return logits.sum(dim=-1) + torch.finfo(logits.dtype).min
    return logits.logsumexp(dim=-1)


def _hard_weights(
    logits: Float[Tensor, "B S P"], corrections: Float[Tensor, "B 1 P"], beta: float
) -> Float[Tensor, "B S P"]:
    """Return the log of the negatives' weights, β · logit less the log of its mean over all items."""
    mean = _log_sum(beta * logits + corrections) - _log_sum(corrections)
    return beta * logits - mean[:, :, None]
