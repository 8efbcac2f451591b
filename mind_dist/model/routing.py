"""Behavior capsules → interest capsules by dynamic routing (MIND, section 4.3 and Algorithm 1; ComiRec-DR).

`logits` say how much a behavior agrees with an interest; `coupling` is their softmax over the interests.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from mind_dist.config import RoutingStart

_EPSILON = 1e-12
"""Added under the root, so that gradients are finite at zero."""

_SHARPNESS = 10.0
"""Makes a cosine of 1 and one of 0 a nearly single assignment."""

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB


class Routing(NamedTuple):
    """Where routing ends.

    Attributes:
        capsules: Interest capsules, shorter than 1; zeros where masked, [B, K, D].
        coupling: How much each behavior belongs to each interest; sums to 1 over a real behavior's interests, and
            is 0 where either is masked, [B, L, K].
    """

    capsules: Float[Tensor, "B K D"]
    coupling: Float[Tensor, "B L K"]


def b2i_dynamic_routing(
    behaviors: Float[Tensor, "B L D"],
    behavior_mask: Bool[Tensor, "B L"],
    interest_mask: Bool[Tensor, "B K"],
    initial_logits: Float[Tensor, "B L K"],
    *,
    num_iterations: int = 3,
) -> Routing:
    """Route behavior capsules to interest capsules (MIND, Algorithm 1).

    Gradients flow through the last iteration only: the earlier ones just find the coupling.

    Args:
        behaviors: Behavior capsules, already mapped by the shared bilinear matrix S; finite where masked.
        behavior_mask: True where real.
        interest_mask: True for the interests a user has.
        initial_logits: Where routing starts; equal ones would keep all interests the same for ever.
        num_iterations: Iterations r.

    Raises:
        ValueError: `num_iterations` is below 1.
    """
    _check_iterations(num_iterations)
    mask = behavior_mask[:, :, None] & interest_mask[:, None, :]
    logits = initial_logits
    with torch.no_grad():
        for _ in range(num_iterations - 1):
            capsules = _gather(_couple(logits, mask), behaviors)
            logits = logits + torch.bmm(behaviors, capsules.transpose(1, 2))
        coupling = _couple(logits, mask)
    return Routing(_gather(coupling, behaviors), coupling)


def dynamic_routing(
    votes: Float[Tensor, "B L K D"],
    mask: Bool[Tensor, "B L K"],
    initial_logits: Float[Tensor, "B L K"],
    *,
    num_iterations: int = 3,
) -> Routing:
    """Route what each behavior says to each interest to interest capsules (ComiRec-DR, arXiv 2005.09347, Algorithm 1).

    Gradients flow through the last iteration only.

    Args:
        votes: Each behavior as mapped for each interest; finite where masked.
        mask: True where both the behavior and the interest are real.
        initial_logits: Where routing starts.
        num_iterations: Iterations r.

    Raises:
        ValueError: `num_iterations` is below 1.
    """
    _check_iterations(num_iterations)
    logits = initial_logits
    with torch.no_grad():
        for _ in range(num_iterations - 1):
            capsules = squash(torch.einsum("blk,blkd->bkd", _couple(logits, mask).to(votes.dtype), votes))
            logits = logits + torch.einsum("blkd,bkd->blk", votes, capsules)
        coupling = _couple(logits, mask)
    return Routing(squash(torch.einsum("blk,blkd->bkd", coupling.to(votes.dtype), votes)), coupling)


def squash(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Shorten vectors to a length below 1 and keep their direction: n² / (1 + n²) · v / n (MIND, section 4.3)."""
    wide = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    squared = wide.square().sum(dim=-1, keepdim=True)
    return (wide * (squared / (1 + squared) * torch.rsqrt(squared + _EPSILON))).to(vectors.dtype)


def num_adaptive_interests(lengths: Int64[Tensor, "*B"], num_interests: int) -> Int64[Tensor, "*B"]:
    """Return how many interests a history of each length gets: max(1, min(K, floor(log2 n))) (MIND, section 4.3).

    >>> num_adaptive_interests(torch.tensor([0, 1, 3, 4, 7, 8, 1000]), 4).tolist()
    [1, 1, 1, 2, 2, 3, 4]
    """
    exponents = torch.frexp(lengths.double()).exponent - 1  # exact, where a rounded log2 need not be
    return exponents.clamp(1, num_interests).long()


def initial_logits(
    start: RoutingStart,
    keys: Int64[Tensor, "B L"],
    behaviors: Float[Tensor, "B L D"],
    mask: Bool[Tensor, "B L"],
    interest_mask: Bool[Tensor, "B K"],
) -> Float[Tensor, "B L K"]:
    """Return where routing starts: a function of the history alone."""
    num_interests = interest_mask.shape[1]
    if start == "farthest_point":
        return farthest_point_logits(behaviors, mask, num_interests)
    if start == "content_keyed":
        return content_keyed_logits(keys, num_interests)
    return torch.zeros(*mask.shape, num_interests, device=mask.device)


def content_keyed_logits(keys: Int64[Tensor, "B L"], num_interests: int) -> Float[Tensor, "B L K"]:
    """Return initial routing logits that depend on nothing but (item key, interest): mean 0, variance 1.

    They look random, as MIND wants them, yet the same history always starts, and so ends, in the same place; they
    follow an item when the window slides, and are the same bits on every machine.

    Args:
        keys: Item keys; any value where padded.
        num_interests: Interests K.
    """
    interests = torch.arange(1, num_interests + 1, device=keys.device)
    bits = _scatter_bits(keys[:, :, None] + interests * _signed(_GOLDEN))
    # The sum of four uniform numbers is close to normal, and exact in integers.
    uniform = torch.stack([(bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)])
    return ((uniform.sum(dim=0) - 2 * 0xFFFF).double() * (math.sqrt(3) / 0x10000)).float()


@torch.no_grad()
def farthest_point_logits(
    behaviors: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"], num_interests: int
) -> Float[Tensor, "B L K"]:
    """Return initial routing logits from K behaviors that are far from each other (Pinterest DCM, arXiv 2506.23060).

    The first is the newest behavior, each further one the behavior whose closest among those before is farthest, the
    first of equals, and of all when each was taken. A behavior's logit for an interest is its cosine to the interest's behavior, sharpened.

    Args:
        behaviors: Behavior capsules, oldest first; finite where masked.
        mask: True where real.
        num_interests: Interests K.
    """
    unit = functional.normalize(behaviors.float(), dim=-1)
    chosen = (mask.sum(dim=1) - 1).clamp(min=0)
    cosines: list[Tensor] = []
    closest = torch.full(mask.shape, -math.inf, device=mask.device).masked_fill(~mask, math.inf)
    for _ in range(num_interests):
        seed = unit.gather(1, chosen[:, None, None].expand(-1, 1, unit.shape[2]))
        cosines.append((unit * seed).sum(dim=-1))
        closest = torch.maximum(closest, cosines[-1]).scatter(1, chosen[:, None], math.inf)
        chosen = closest.argmin(dim=1)
    return torch.stack(cosines, dim=-1) * _SHARPNESS


def _check_iterations(num_iterations: int) -> None:
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, not {num_iterations}")


def _couple(logits: Float[Tensor, "B L K"], mask: Bool[Tensor, "B L K"]) -> Float[Tensor, "B L K"]:
    """Return the softmax over each user's interests; 0 where masked."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0.0)


def _gather(coupling: Float[Tensor, "B L K"], behaviors: Float[Tensor, "B L D"]) -> Float[Tensor, "B K D"]:
    """Return the capsules that the coupled behaviors make together."""
    return squash(torch.bmm(coupling.to(behaviors.dtype).transpose(1, 2), behaviors))


def _scatter_bits(keys: Int64[Tensor, "*N"]) -> Int64[Tensor, "*N"]:
    """Scatter keys evenly over 64 bits: the splitmix64 finaliser, in wrapping int64 arithmetic."""
    bits = (keys ^ _shift_right(keys, 30)) * _signed(_FIRST_FACTOR)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_SECOND_FACTOR)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Int64[Tensor, "*N"], count: int) -> Int64[Tensor, "*N"]:
    """Shift right and fill with zeros, not with the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(unsigned: int) -> int:
    """Return the int64 with the bits of an unsigned number."""
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
