"""Interests → penalties that keep them apart and all of them in use; no weight depends on a batch's size."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
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
    interests: Interests,
    targets: Float[Tensor, "B T D"],
    target_mask: Bool[Tensor, "B T"],
    windows: Int64[Tensor, " B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return an unbiased estimate of K · Σ_k m_k² - 1, m_k the share of its targets that interest k wins in a window.

    A target's shares are the softmax over interests of its scores over the temperature; s_w, those of a window, are the
    mean over its targets, and m is the mean of s_w over all windows there are. The penalty is 0 when all interests win
    the same.

    The square of a batch's mean is no estimate of m²: its expectation is m² plus the variance of that mean, which is the
    larger the fewer windows there are. What is independent of each other are windows, not the positions of one; for two
    of them E[s_vk · s_wk] = m_k². So the estimate is the mean of s_vk · s_wk over the pairs of different windows,
    (‖Σ_w s_w‖² - Σ_w ‖s_w‖²) / (n · (n - 1)), whose expectation is the same for every n ≥ 2 (a U-statistic). It may
    fall below 0. (A live log brings events of one user together, which are not independent.)

    Args:
        interests: Of B ends of windows.
        targets: Item vectors, as scored.
        target_mask: True where real.
        windows: Window of each end, from 0.
        temperature: Divides the scores.

    Returns:
        The estimate over the windows that have a target; 0 for fewer than two of them.
    """
    scores = torch.bmm(targets, interests.vectors.transpose(1, 2)).float() / temperature
    real = interests.mask[:, None, :] & target_mask[:, :, None]
    won = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(dim=-1) * real
    num_windows = int(windows.max()) + 1 if len(windows) else 0
    counts = won.new_zeros(num_windows).index_add(0, windows, real.any(dim=2).sum(dim=1).to(won.dtype))
    shares = won.new_zeros(num_windows, won.shape[2]).index_add(0, windows, won.sum(dim=1))
    shares = shares / counts.clamp(min=1)[:, None]
    num_pairs = (counts > 0).sum() * ((counts > 0).sum() - 1)
    products = shares.sum(dim=0).square().sum() - shares.square().sum()
    return (won.shape[2] * products - num_pairs) / num_pairs.clamp(min=1)


def routing_penalty(coupling: Float[Tensor, "B L K"], mask: Bool[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean over users of Σ_k v_k², v_k the variance of an interest's coupling over the behaviors.

    REMI's routing regulariser (arXiv 2302.14532, section 3.3), over real behaviors only.
    """
    real = (coupling > 0).any(dim=2, keepdim=True)
    count = real.sum(dim=1, keepdim=True).clamp(min=1)
    deviation = (coupling - coupling.sum(dim=1, keepdim=True) / count) * real
    variance = deviation.square().sum(dim=1) / count.squeeze(1)
    return (variance.square() * mask).sum() / mask.any(dim=1).sum().clamp(min=1)
