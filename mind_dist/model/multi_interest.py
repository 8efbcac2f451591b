"""Behaviors → `Interests`: what every model is made of.

    items → item tower → behaviors → sequence encoder → extraction → head → interests
                                     (none, causal)     mind | comirec | two_tower | causal

Models differ by their extraction; the causal one has a head of its own, everything else is shared. A model takes behaviors
that its item tower has made: whoever has the rows of items calls both (`mind_dist.training.loop`, `mind_dist.encoder`).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mind_dist.config import (
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    MindConfig,
    ModelConfig,
    TwoTowerConfig,
)
from mind_dist.model.causal import CausalInterests
from mind_dist.model.comirec import PositionedRouting, SelfAttention
from mind_dist.model.encoders import sequence_encoder
from mind_dist.model.extraction import Extracted, OfBeginnings
from mind_dist.model.head import interest_head, join, side_by_side
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import unit_vectors
from mind_dist.model.item_tower import ItemTower
from mind_dist.model.mind import B2IRouting
from mind_dist.model.routing import num_adaptive_interests
from mind_dist.model.two_tower import pooling


class MultiInterestModel(nn.Module):
    """An `InterestModel` of any kind, with the item tower its items come from.

    >>> behaviors = Behaviors(torch.ones(1, 3, 8), torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    >>> interests = MultiInterestModel(ModelConfig(dim=8, num_interests=2))(behaviors)
    >>> interests.vectors.shape, interests.mask.tolist()
    (torch.Size([1, 2, 8]), [[True, False]])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = sequence_encoder(config)
        self.extraction = _extraction(config)
        self.head = interest_head(config)
        self.item_tower = ItemTower(config)  # last, so that the first values of the others are the same with any tower

    def forward(
        self,
        behaviors: Behaviors,
        profile: Float[Tensor, "B P D"] | None = None,
        context: Float[Tensor, "N C"] | None = None,
        ends: Int64[Tensor, "B E"] | None = None,
    ) -> Interests:
        """Extract interests; see `InterestModel`.

        Raises:
            ValueError: The config asks for a profile or a context that is not there or is of another width.
        """
        behaviors = _at_least_one_place(behaviors)
        known = behaviors
        if not bool(behaviors.mask.all()):
            known = behaviors._replace(vectors=behaviors.vectors.masked_fill(~behaviors.mask[:, :, None], 0.0))
        if ends is None:
            mask = self._interest_mask(behaviors.mask.sum(dim=1))
        else:
            mask = self._interest_mask(ends.flatten() + 1)
            profile = None if profile is None else profile.repeat_interleave(ends.shape[1], dim=0)
        joined = join(profile, context, self.config)
        found: Extracted = self.extraction(known, self.encoder, ends, mask)
        vectors = self.head(found.capsules, side_by_side(found.state, joined))
        if self.config.normalize:
            vectors = unit_vectors(vectors)
        vectors = vectors.masked_fill(~mask[:, :, None], 0.0)
        return Interests(vectors, mask, found.coupling)

    def _interest_mask(self, lengths: Int64[Tensor, " B"]) -> Bool[Tensor, "B K"]:
        """Return which interests each user has: none without behaviors."""
        most = self.config.num_interests
        counts = (
            num_adaptive_interests(lengths, most) if self.config.adaptive_interests else lengths.clamp(max=1) * most
        )
        ranks = torch.arange(most, device=lengths.device)
        return (ranks < counts[:, None]) & (lengths > 0)[:, None]


def _at_least_one_place(behaviors: Behaviors) -> Behaviors:
    """Return the behaviors, padded where there is no place at all: there must be one to look at."""
    if behaviors.mask.shape[1]:
        return behaviors
    pad = functional.pad
    return Behaviors(pad(behaviors.vectors, (0, 0, 0, 1)), pad(behaviors.keys, (0, 1)), pad(behaviors.mask, (0, 1)))


def _extraction(config: ModelConfig) -> nn.Module:
    """Return what makes capsules of behaviors."""
    dim, num_interests = config.dim, config.num_interests
    match config.extraction:
        case CausalConfig() as section:
            return CausalInterests(dim, num_interests, section)
        case TwoTowerConfig() as section:
            return OfBeginnings(dim, section.recency, pooling(dim, section))
        case MindConfig() as section:
            return OfBeginnings(dim, section.recency, B2IRouting(dim, section))
        case ComirecDrConfig() as section:
            return OfBeginnings(dim, 0, PositionedRouting(dim, num_interests, section))
        case ComirecSaConfig() as section:
            return OfBeginnings(dim, section.recency, SelfAttention(dim, num_interests, section.hidden_dim))
