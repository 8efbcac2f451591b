"""The two-tower baseline: behaviors → one user vector."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mind_dist.config import TwoTowerConfig
from mind_dist.model.comirec import SelfAttention
from mind_dist.model.interests import Behaviors
from mind_dist.model.routing import Routing


class MeanPooling(nn.Module):
    """Takes the mean of the behaviors as the one capsule."""

    def forward(
        self, behaviors: Behaviors, placed: Float[Tensor, "B L D"], interest_mask: Bool[Tensor, "B K"]
    ) -> Routing:
        """Extract the capsule; see `B2IRouting.forward`."""
        real = behaviors.mask[:, :, None] & interest_mask[:, None, :]
        known = placed.masked_fill(~behaviors.mask[:, :, None], 0.0)  # an encoder leaves a state behind the end, too
        mean = known.sum(dim=1, keepdim=True) / behaviors.mask.sum(dim=1).clamp(min=1)[:, None, None]
        return Routing(mean, real.to(mean.dtype))


def pooling(dim: int, section: TwoTowerConfig) -> nn.Module:
    """Return how behaviors are pooled; attention is ComiRec-SA's, with one interest."""
    return SelfAttention(dim, num_interests=1) if section.pooling == "attention" else MeanPooling()
