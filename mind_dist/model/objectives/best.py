"""Every item is scored by the user's best interest, in training as when served; the loss and its gradient in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from mind_dist.model.interests import Interests
from mind_dist.model.objectives.candidates import Candidates
from mind_dist.model.objectives.softmax import check_temperature, corrections

_BLOCK_SCORES = 1 << 18
"""Scores that are looked at together on a CPU: a megabyte, which stays in a core's cache from one step to the next."""


@dataclass(frozen=True)
class BestObjective:
    """The sampled softmax (`sampled_softmax_loss`) over scores max_k ⟨v_k, item⟩, of targets and negatives alike.

    Attributes:
        temperature: Divides the scores.
        hard_beta: By how much hard negatives count more.
    """

    temperature: float
    hard_beta: float = 0.0

    def __call__(self, interests: Interests, candidates: Candidates) -> Float[Tensor, ""]:
        """Return the summed negative log likelihood of the targets; zeros are the scores of users without interests.

        Raises:
            ValueError: The temperature is not above 0.
        """
        check_temperature(self.temperature)
        own = torch.bmm(candidates.targets, interests.vectors.transpose(1, 2)).float()
        own = own.masked_fill(~interests.mask[:, None, :], torch.finfo(own.dtype).min).amax(dim=-1)
        own = own.masked_fill(~interests.mask.any(dim=1)[:, None], 0.0) / self.temperature
        if candidates.own_log_inclusion is not None:
            own = own - candidates.own_log_inclusion.masked_fill(~candidates.target_mask, 0.0)
        left_out = candidates.targets_in_pool.masked_fill(~candidates.target_mask, -1)
        fixed = _Fixed(
            interests.mask, candidates.target_mask, left_out, candidates.log_inclusion, self.temperature, self.hard_beta
        )
        loss: Tensor = _BestSoftmax.apply(own, interests.vectors, candidates.pool, fixed)  # type: ignore[no-untyped-call]
        return loss


class _Fixed(NamedTuple):
    """What the loss depends on, and no gradient flows to.

    Attributes:
        mask: Interests that users have, [B, K].
        target_mask: True where real, [B, T].
        left_out: Places of the pool that are no negatives of a user's, -1 for none, [B, T].
        log_inclusion: Log of how likely each item was to be in the pool, [B, P], or [1, P] for all.
        temperature: Divides the scores.
        hard_beta: By how much hard negatives count more.
    """

    mask: Bool[Tensor, "B K"]
    target_mask: Bool[Tensor, "B T"]
    left_out: Int64[Tensor, "B T"]
    log_inclusion: Float[Tensor, "#B P"]
    temperature: float
    hard_beta: float

    def block(self, start: int, end: int) -> _Fixed:
        """Return that of some users."""
        of_pool = self.log_inclusion if len(self.log_inclusion) == 1 else self.log_inclusion[start:end]
        mask, target_mask, left_out = (part[start:end] for part in (self.mask, self.target_mask, self.left_out))
        return self._replace(mask=mask, target_mask=target_mask, left_out=left_out, log_inclusion=of_pool)


class _Gradients(NamedTuple):
    """Those of what the loss depends on, each of its shape."""

    own: Float[Tensor, "B T"]
    vectors: Float[Tensor, "B K D"]
    pool: Float[Tensor, "P D"]

    def block(self, start: int, end: int) -> _Gradients:
        """Return that of some users, and of the pool."""
        return _Gradients(self.own[start:end], self.vectors[start:end], self.pool)


class _BestSoftmax(torch.autograd.Function):
    """Σ log(exp own + Σ_i exp(score_i) / q_i) - own, a block of users at a time, with its gradient.

    What autograd would keep for the way back are some [B, K, P] and [B, P], each of which goes to memory and comes from there
    several times. A block's are gone before they leave the cache: its gradient is made as soon as its loss is known, but for
    the factor that the loss gets from outside.
    """

    @staticmethod
    def forward(
        ctx: Any,
        own: Float[Tensor, "B T"],
        vectors: Float[Tensor, "B K D"],
        pool: Float[Tensor, "P D"],
        fixed: _Fixed,
    ) -> Float[Tensor, ""]:
        whole = _Gradients(torch.empty_like(own), torch.empty_like(vectors), torch.zeros_like(pool))
        total = own.new_zeros(())
        at_once = max(1, _BLOCK_SCORES // max(1, len(pool)) if pool.device.type == "cpu" else len(own))
        for start in range(0, len(own), at_once):
            users, gradients = slice(start, start + at_once), whole.block(start, start + at_once)
            total += _block(own[users], vectors[users], pool, fixed.block(start, start + at_once), gradients)
        ctx.save_for_backward(*whole)
        return total

    @staticmethod
    def backward(ctx: Any, factor: Float[Tensor, ""]) -> tuple[Tensor, Tensor, Tensor, None]:
        of_own, of_vectors, of_pool = ctx.saved_tensors
        return of_own * factor, of_vectors * factor, of_pool * factor, None


def _block(
    own: Float[Tensor, "B T"],
    vectors: Float[Tensor, "B K D"],
    pool: Float[Tensor, "P D"],
    fixed: _Fixed,
    gradients: _Gradients,
) -> Float[Tensor, ""]:
    """Return some users' loss, write the gradients of what is theirs, and add to that of the pool."""
    beta = fixed.hard_beta
    users = vectors.to(pool.dtype)
    scores, winner = _best(users, pool, fixed.mask)
    scores.div_(fixed.temperature)
    corrected = corrections(fixed.left_out, fixed.log_inclusion)
    if beta:
        hard = torch.add(corrected, scores, alpha=beta)
        hard_sum = hard.logsumexp(dim=1, keepdim=True)
        mean = hard_sum - corrected.logsumexp(dim=1, keepdim=True)
        logits = corrected.sub_(mean).add_(scores, alpha=1 + beta)
    else:
        logits = corrected.add_(scores)
    log_sum = logits.logsumexp(dim=1, keepdim=True)
    losses = (torch.logaddexp(own, log_sum) - own).masked_fill_(~fixed.target_mask, 0.0)
    of_log_sum = torch.sigmoid(log_sum - own).masked_fill_(~fixed.target_mask, 0.0)
    torch.neg(of_log_sum, out=gradients.own)
    factor = of_log_sum.sum(dim=1, keepdim=True) / fixed.temperature * fixed.mask.any(dim=1, keepdim=True)
    of_scores = logits.sub_(log_sum).exp_()
    if beta:
        of_scores.mul_(1 + beta).sub_(hard.sub_(hard_sum).exp_(), alpha=beta)
    of_scores.mul_(factor)
    won = torch.empty_like(of_scores)
    for interest in range(vectors.shape[1]):
        torch.eq(winner, interest, out=won).mul_(of_scores)
        of_winner = won.to(pool.dtype)
        gradients.vectors[:, interest] = of_winner @ pool
        gradients.pool.add_(of_winner.T @ users[:, interest])
    return losses.sum()


def _best(
    vectors: Float[Tensor, "B K D"], pool: Float[Tensor, "P D"], mask: Bool[Tensor, "B K"]
) -> tuple[Float[Tensor, "B P"], Int32[Tensor, "B P"]]:
    """Return each item's score by the best interest, 0 for a user without any, and which interest that is.

    A score's last bits, worth a millionth of it or less, say whose it is: so the largest score brings along which one it is,
    and nothing has to be looked up or filled in item by item, which takes longer than the scores themselves.
    """
    num_interests = vectors.shape[1]
    whose = (1 << (num_interests - 1).bit_length()) - 1
    is_whole = bool(mask.all())
    best = torch.empty(0)
    for interest in range(num_interests):
        scores = (vectors[:, interest] @ pool.T).float()
        if not is_whole:
            scores[~mask[:, interest]] = torch.finfo(scores.dtype).min
        scores.view(torch.int32).bitwise_and_(~whose).bitwise_or_(interest)
        best = torch.maximum(best, scores, out=best) if interest else scores
    winner = best.view(torch.int32).bitwise_and(whose)
    if not is_whole:
        best[~mask.any(dim=1)] = 0.0
    return best, winner
