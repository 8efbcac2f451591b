"""How likely an item is to be in the pool of negatives: what the sampled softmax is corrected by."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor


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
