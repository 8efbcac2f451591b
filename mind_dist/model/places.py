"""Where behaviors stand in their history, counted from the newest, so that padding and windows do not move them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


def ages(mask: Bool[Tensor, "B L"], most: int) -> Int64[Tensor, "B L"]:
    """Return how many behaviors ago each was, 0 for the newest, `most` - 1 for all older ones; 0 where padded.

    >>> ages(torch.tensor([[True, True, True, False]]), most=2).tolist()
    [[1, 1, 0, 0]]
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask.sum(dim=1, keepdim=True) - 1 - places).clamp(0, most - 1)


def decays(count: int, most: int) -> Float[Tensor, "N A"]:
    """Return log weights by age of some decays: the fastest first, then slower ones by up to a factor of 64."""
    time_constants = 3.0 * 4.0 ** torch.linspace(0, min(count - 1, 3), count)
    return -torch.arange(most, dtype=torch.float32) / time_constants[:, None]


class Recency(nn.Module):
    """Adds a learned vector for its age to each behavior; a fresh one adds nothing.

    Args:
        dim: Width D.
        most: Distinct ages.
    """

    def __init__(self, dim: int, most: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(most, dim))

    def forward(self, behaviors: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Return the behaviors with their ages; zeros stay zeros where padded."""
        added = self.vectors[ages(mask, len(self.vectors))]
        return behaviors + added.masked_fill(~mask[:, :, None], 0.0)
