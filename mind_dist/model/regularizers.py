"""Interests → penalties that keep them apart and all of them in use; means, so that no weight depends on a batch's size."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.item_bag import unit_vectors


def spread_penalty(interests: Interests, margin: float) -> Float[Tensor, ""]:
    """Return the mean of max(0, cosine - margin)² over the pairs of a user's interests; 0 where there are none."""
    unit = unit_vectors(interests.vectors)
    excess = (torch.bmm(unit, unit.transpose(1, 2)) - margin).clamp(min=0).square()
    pairs = interests.mask[:, :, None] & interests.mask[:, None, :]
    pairs = pairs & ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    return (excess * pairs).sum() / pairs.sum().clamp(min=1)


def balance_penalty(
    interests: Interests, targets: Float[Tensor, "B T D"], target_mask: Bool[Tensor, "B T"], temperature: float
) -> Float[Tensor, ""]:
    """Return K · Σ_k m_k² - 1, m_k the mean share of the targets that interest k wins; 0 when all win the same.

    A target's shares are the softmax over interests of its scores over the temperature.
    """
    scores = torch.bmm(targets, interests.vectors.transpose(1, 2)).float() / temperature
    real = interests.mask[:, None, :] & target_mask[:, :, None]
    won = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(dim=-1) * real
    means = won.sum(dim=(0, 1)) / target_mask.sum().clamp(min=1)
    return means.shape[0] * means.square().sum() - target_mask.any().to(means.dtype)


def routing_penalty(coupling: Float[Tensor, "B L K"], mask: Bool[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean over users of Σ_k v_k², v_k the variance of an interest's coupling over the behaviors.

    REMI's routing regulariser (arXiv 2302.14532, section 3.3), over real behaviors only.
    """
    real = (coupling > 0).any(dim=2, keepdim=True)
    count = real.sum(dim=1, keepdim=True).clamp(min=1)
    deviation = (coupling - coupling.sum(dim=1, keepdim=True) / count) * real
    variance = deviation.square().sum(dim=1) / count.squeeze(1)
    return (variance.square() * mask).sum() / mask.any(dim=1).sum().clamp(min=1)
