"""MIND (arXiv 1904.08030): behaviors → interest capsules."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mind_dist.config import MindConfig
from mind_dist.model.interests import Behaviors
from mind_dist.model.routing import Routing, b2i_dynamic_routing, initial_logits


class B2IRouting(nn.Module):
    """Maps all behaviors by one shared matrix S and routes them to capsules.

    Two things differ from the paper: S starts as the identity, so that a fresh model's capsules are means of the very
    item vectors they are to find; routing starts where the history, not chance, says, so that the same history always
    gives the same vectors.
    """

    def __init__(self, dim: int, section: MindConfig) -> None:
        super().__init__()
        self._section = section
        self.bilinear = nn.Parameter(torch.eye(dim))

    def forward(
        self, behaviors: Behaviors, placed: Float[Tensor, "B L D"], interest_mask: Bool[Tensor, "B K"]
    ) -> Routing:
        """Extract capsules.

        Args:
            behaviors: The histories.
            placed: Their vectors with what is known of their place added.
            interest_mask: True for the interests a user has.
        """
        mapped = placed @ self.bilinear
        logits = initial_logits(self._section.start, behaviors.keys, mapped, behaviors.mask, interest_mask)
        return b2i_dynamic_routing(
            mapped, behaviors.mask, interest_mask, logits, num_iterations=self._section.iterations
        )
