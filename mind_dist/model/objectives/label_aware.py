"""Interests × targets → the user as each target sees them (MIND, section 4.4); training only."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.scores import Scores

_LARGEST_LOG = 40.0
"""Powers above e^40 are taken for it: no softmax tells them apart, and they, and their gradients, stay finite."""


def label_aware_scores(
    interests: Interests,
    targets: Float[Tensor, "B T D"],
    pool: Float[Tensor, "P D"],
    *,
    power: float,
    form: Literal["power", "scaled"] = "power",
) -> Scores:
    """Score by the user as each target sees them, for its negatives too."""
    users = label_aware_attention(interests, targets, power=power, form=form)
    return Scores((users * targets).sum(dim=-1), users @ pool.T)


def label_aware_attention(
    interests: Interests, targets: Float[Tensor, "B T D"], *, power: float, form: Literal["power", "scaled"] = "power"
) -> Float[Tensor, "B T D"]:
    """Return, for every target, the user's interests weighted by how well they fit it.

    `power` is V_u softmax(pow(V_uᵀ e, p)), MIND's equation 6, with pow(x, p) = sign(x) · |x|^p, so that a score below
    zero stays below all others whatever p is. `scaled` is V_u softmax(p · V_uᵀ e): for scores within [-1, 1], as unit
    vectors give, large powers are all nearly zero, and their softmax is a mean.

    Args:
        interests: The users' interests; masked ones get no weight.
        targets: Item vectors, as scored.
        power: Power p, above 0: 0 would be the mean, more is sharper.
        form: Which of the two.

    Returns:
        One user vector per target; zeros for a user without interests.

    Raises:
        ValueError: The power is not above 0.
    """
    if not power > 0:
        raise ValueError(f"power must be above 0, not {power}")
    scores = torch.bmm(targets, interests.vectors.transpose(1, 2))
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    mask = interests.mask[:, None, :].expand_as(scores)
    best = scores.detach().masked_fill(~mask, torch.finfo(scores.dtype).min).amax(dim=-1, keepdim=True)
    best = best.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    behind = _behind_power(scores, best, power) if form == "power" else (scores - best) * power
    weights = behind.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~mask, 0.0)
    return torch.bmm(weights.to(interests.vectors.dtype), interests.vectors)


def _behind_power(scores: Float[Tensor, "B T K"], best: Float[Tensor, "B T 1"], power: float) -> Float[Tensor, "B T K"]:
    """Return pow(score, p) - pow(best, p), at most 0, from the logs of the powers.

    Neither power need fit into float32: of two with the same sign the larger one is taken out, a · (b / a - 1), so that
    scores that differ stay apart however large p makes both.
    """
    logs, best_logs = (power * part.abs().clamp(min=torch.finfo(part.dtype).tiny).log() for part in (scores, best))
    size, best_size = logs.clamp(max=_LARGEST_LOG).exp(), best_logs.clamp(max=_LARGEST_LOG).exp()
    both_above = best_size * torch.expm1((logs - best_logs).clamp(max=0))
    both_below = size * torch.expm1((best_logs - logs).clamp(max=0))
    return torch.where(scores >= 0, both_above, torch.where(best < 0, both_below, -size - best_size))
