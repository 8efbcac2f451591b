"""A target's best interest scores it and its negatives (ComiRec, arXiv 2005.09347, equation 7)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.scores import Scores


def hard_scores(interests: Interests, targets: Float[Tensor, "B T D"], pool: Float[Tensor, "P D"]) -> Scores:
    """Score by V_u[argmax(V_uᵀ e)], the interest that fits a target best, the first of equals; zeros without interests."""
    own = torch.bmm(targets, interests.vectors.transpose(1, 2))
    real = interests.mask[:, None, :].expand_as(own)
    best = own.masked_fill(~real, torch.finfo(own.dtype).min).argmax(dim=-1)
    users = interests.vectors.gather(1, best[:, :, None].expand(-1, -1, interests.vectors.shape[2]))
    users = users.masked_fill(~interests.mask.any(dim=1)[:, None, None], 0.0)
    return Scores((users * targets).sum(dim=-1), users @ pool.T)
