"""Behavior capsules → interest capsules by dynamic routing (MIND, section 4.3 and Algorithm 1).

`logits` say how much a behavior agrees with an interest; `coupling` is their softmax over the interests.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_EPSILON = 1e-12
"""Added under the root, so that gradients are finite at zero."""

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
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, not {num_iterations}")
    mask = behavior_mask[:, :, None] & interest_mask[:, None, :]
    logits = initial_logits
    with torch.no_grad():
        for _ in range(num_iterations - 1):
            capsules = _gather(_couple(logits, mask), behaviors)
            logits = logits + torch.bmm(behaviors, capsules.transpose(1, 2))
        coupling = _couple(logits, mask)
    return Routing(_gather(coupling, behaviors), coupling)


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
