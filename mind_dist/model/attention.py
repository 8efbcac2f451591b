"""Interests × targets → the user as each target sees them (MIND, section 4.4); training only."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mind_dist.model.interests import Interests


def label_aware_attention(
    interests: Interests, targets: Float[Tensor, "B T D"], power: float
) -> Float[Tensor, "B T D"]:
    """Return, for every target, the user's interests weighted by how well they fit it.

    The weights are exp(score)^p, normalised: softmax(p · score). MIND writes softmax(score^p), which is neither
    monotone for negative scores nor, for scores within [-1, 1] as unit vectors give, ever sharp: score^p tends to
    zero for all of them. This form keeps what p is for — 0 is the mean, more is sharper, infinity a hard choice —
    for scores of any sign and size, and cannot overflow.

    Args:
        interests: The users' interests; masked ones get no weight.
        targets: Item vectors, as scored.
        power: Power p, above 0; `inf` takes the best interest alone, the first of equals.

    Returns:
        One user vector per target; zeros for a user without interests.

    Raises:
        ValueError: The power is not above 0.
    """
    if not power > 0:
        raise ValueError(f"power must be above 0, not {power}")
    scores = torch.bmm(targets, interests.vectors.transpose(1, 2))
    mask = interests.mask[:, None, :].expand_as(scores)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = _hard_choice(scores) if math.isinf(power) else _soft_choice(scores, power)
    return torch.bmm(weights.masked_fill(~mask, 0.0).to(interests.vectors.dtype), interests.vectors)


def _hard_choice(scores: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
    """Return 1 for the best interest and 0 for the others."""
    best = scores.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(scores).scatter_(-1, best, 1.0)


def _soft_choice(scores: Float[Tensor, "B T K"], power: float) -> Float[Tensor, "B T K"]:
    """Return softmax(p · score), the best score subtracted first so that the product never overflows upwards."""
    best = scores.detach().amax(dim=-1, keepdim=True)
    return ((scores - best) * power).softmax(dim=-1)
