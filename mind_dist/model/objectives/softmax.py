"""Scores of targets and of a pool of negatives → the sampled softmax loss, corrected."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from mind_dist.model.objectives.hard_negatives import hard_log_weights, log_sum


def sampled_softmax_loss(
    own: Float[Tensor, "B T"],
    scores: Float[Tensor, "B S P"],
    target_mask: Bool[Tensor, "B T"],
    target_index: Int64[Tensor, "B T"],
    log_inclusion: Float[Tensor, "#B P"],
    *,
    temperature: float,
    own_log_inclusion: Float[Tensor, "B T"] | None = None,
    hard_beta: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the summed negative log likelihood of the targets among a pool of negatives.

    The pool holds each item once, and no target of a user is a negative of another of the same user, nor its own: so
    accidental hits do not count, and nothing counts twice.

    The softmax's denominator is estimated by exp(own score) + Σ exp(score_i) / q_i over the pool, q_i the
    probability that item i is in the pool: an unbiased (Horvitz–Thompson) estimate of the sum over all items.
    The target's own score is not corrected, since its window put it there with certainty (arXiv 2507.09331 shows
    the bias of correcting it, as the usual in-batch logQ does, Yi et al., RecSys 2019), unless asked for: TensorFlow's
    sampled softmax, and so ComiRec's, treats it like a negative. With all items in the pool and q = 1 this is the full
    softmax.

    Args:
        own: What each target's user scores the target.
        scores: And the items of the pool, which are distinct; S is T, or 1 where all targets see the same.
        target_mask: True where real.
        target_index: Each target's place in the pool, -1 where it is not in it; anything where masked.
        log_inclusion: log q_i (`log_inclusion_probability`), [B, P], or [1, P] where all users have the same; zeros for
            no correction. It must be finite.
        temperature: Divides the scores.
        own_log_inclusion: log q of the targets, where their own scores are corrected, too.
        hard_beta: Weigh negatives by exp(beta · logit), with mean 1 (REMI, arXiv 2302.14532, equation 8).

    Returns:
        The sum over real targets: the caller divides by their number over all workers. 0, still with a graph, when
        there are none.

    Raises:
        ValueError: The temperature is not above 0.
    """
    check_temperature(temperature)
    corrected = corrections(target_index.masked_fill(~target_mask, -1), log_inclusion)[:, None, :]
    logits = torch.add(corrected, scores.float(), alpha=1 / temperature)
    if hard_beta:
        logits = logits + hard_log_weights(scores.float() / temperature, corrected, hard_beta)
    positive = own.float() / temperature
    if own_log_inclusion is not None:
        positive = positive - own_log_inclusion.masked_fill(~target_mask, 0.0)
    losses = torch.logaddexp(positive, log_sum(logits)) - positive
    return losses.masked_fill(~target_mask, 0.0).sum()


def check_temperature(temperature: float) -> None:
    """Check that scores can be divided by it.

    Raises:
        ValueError: It is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")


@torch.no_grad()
def corrections(left_out: Int64[Tensor, "B T"], log_inclusion: Float[Tensor, "#B P"]) -> Float[Tensor, "B P"]:
    """Return what is added to every score: -log q_i, and the lowest number for the places that are left out.

    One tensor, filled in place and without a graph: each further pass over it would cost as much as a step of the model.
    """
    num_items = log_inclusion.shape[1]
    with_spare = (-functional.pad(log_inclusion, (0, 1))).expand(len(left_out), -1).clone()
    places = left_out.where(left_out >= 0, num_items)  # those of none fall into a spare column
    with_spare.scatter_(-1, places, torch.finfo(with_spare.dtype).min)
    return with_spare[:, :num_items]
