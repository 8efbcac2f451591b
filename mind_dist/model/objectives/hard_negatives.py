"""Weights by which hard negatives count more (REMI, arXiv 2302.14532, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def hard_log_weights(
    logits: Float[Tensor, "B S P"], corrections: Float[Tensor, "B 1 P"], beta: float
) -> Float[Tensor, "B S P"]:
    """Return the log of the negatives' weights: β · logit less the log of its mean over all items (equation 8).

    Args:
        logits: What users score the pool, over the temperature.
        corrections: -log q_i, and the lowest number for what is no negative of a user's.
        beta: Concentration β.
    """
    mean = log_sum(beta * logits + corrections) - log_sum(corrections)
    return beta * logits - mean[:, :, None]


def log_sum(logits: Float[Tensor, "B S P"]) -> Float[Tensor, "B S"]:
    """Return log Σ exp; the lowest number, with a graph, for an empty pool."""
    if logits.shape[-1] == 0:
        return logits.sum(dim=-1) + torch.finfo(logits.dtype).min
    return logits.logsumexp(dim=-1)
