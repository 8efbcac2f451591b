"""Every item is scored by the user's best interest, in training as when served."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.scores import Scores


def best_interest_scores(interests: Interests, targets: Float[Tensor, "B T D"], pool: Float[Tensor, "P D"]) -> Scores:
    """Score each item, target or not, by the user's best interest, as when served; zeros without interests."""
    own = torch.bmm(targets, interests.vectors.transpose(1, 2))
    lowest = torch.finfo(own.dtype).min
    own = own.masked_fill(~interests.mask[:, None, :], lowest).amax(dim=-1)
    scores: Tensor = _BestOfInterests.apply(interests.vectors, interests.mask, pool)  # type: ignore[no-untyped-call]
    empty = ~interests.mask.any(dim=1)
    own, scores = own.masked_fill(empty[:, None], 0.0), scores.masked_fill(empty[:, None], 0.0)
    return Scores(own, scores[:, None, :])


class _BestOfInterests(torch.autograd.Function):
    """max_k ⟨v_k, item⟩ over a user's interests, one interest after the other.

    Autograd's own way keeps [B, K, P] scores and as many gradients, which takes twice the time.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"], pool: Float[Tensor, "P D"]
    ) -> Float[Tensor, "B P"]:
        best = _scores_of(0, vectors, mask, pool)
        winner = torch.zeros_like(best, dtype=torch.uint8)
        for interest in range(1, vectors.shape[1]):
            scores = _scores_of(interest, vectors, mask, pool)
            winner.masked_fill_(scores > best, interest)
            best = torch.maximum(best, scores)
        ctx.save_for_backward(vectors, pool, winner)
        return best

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B K D"], None, Float[Tensor, "P D"]]:
        vectors, pool, winner = ctx.saved_tensors
        of_vectors, of_pool = torch.empty_like(vectors), torch.zeros_like(pool)
        for interest in range(vectors.shape[1]):
            won = gradient * (winner == interest)
            of_vectors[:, interest] = (won.to(pool.dtype) @ pool).to(vectors.dtype)
            of_pool += (won.to(vectors.dtype).T @ vectors[:, interest]).to(pool.dtype)
        return of_vectors, None, of_pool


def _scores_of(
    interest: int, vectors: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"], pool: Float[Tensor, "P D"]
) -> Float[Tensor, "B P"]:
    scores: Tensor = vectors[:, interest].to(pool.dtype) @ pool.T
    real = mask[:, interest, None]
    return scores if real.all() else scores.masked_fill_(~real, torch.finfo(scores.dtype).min)
