"""Behaviors → `Interests`: what every model is made of.

    behaviors → sequence encoder → extraction → head → interests
                (none, causal)     mind | comirec | two_tower | causal

A model differs from another by its extraction alone; everything else is shared.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mind_dist.config import ModelConfig
from mind_dist.model.comirec import PositionedRouting, SelfAttention
from mind_dist.model.encoders import sequence_encoder
from mind_dist.model.head import interest_head, join
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import unit_vectors
from mind_dist.model.mind import B2IRouting
from mind_dist.model.places import Recency
from mind_dist.model.routing import Routing, num_adaptive_interests
from mind_dist.model.two_tower import pooling


class MultiInterestModel(nn.Module):
    """An `InterestModel` of any kind.

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
        aged = config.recency and self.extraction is not None
        self.recency = Recency(config.dim, config.max_recency) if aged else None
        self.head = interest_head(config)

    def forward(
        self,
        behaviors: Behaviors,
        profile: Float[Tensor, "B P D"] | None = None,
        context: Float[Tensor, "B C"] | None = None,
        ends: Int64[Tensor, "B E"] | None = None,
    ) -> Interests:
        """Extract interests; see `InterestModel`.

        Raises:
            ValueError: The config asks for a profile or a context that is not there or is of another width.
        """
        joined = join(profile, context, self.config)
        behaviors = _at_least_one_place(behaviors)
        known = behaviors._replace(vectors=behaviors.vectors.masked_fill(~behaviors.mask[:, :, None], 0.0))
        encoded = known._replace(vectors=self.encoder(known.vectors))
        if ends is None:
            mask = self._interest_mask(behaviors.mask.sum(dim=1))
        else:
            mask = self._interest_mask(ends.flatten() + 1)
            joined = None if joined is None else joined.repeat_interleave(ends.shape[1], dim=0)
        capsules, coupling = self._capsules(encoded, ends, mask)
        vectors = self.head(capsules, joined)
        if self.config.normalize:
            vectors = unit_vectors(vectors)
        vectors = vectors.masked_fill(~mask[:, :, None], 0.0)
        return Interests(vectors, mask, _even(mask) if coupling is None else shares(coupling), coupling)

    def _capsules(
        self, encoded: Behaviors, ends: Int64[Tensor, "B E"] | None, mask: Bool[Tensor, "N K"]
    ) -> tuple[Float[Tensor, "N K D"], Float[Tensor, "N L K"] | None]:
        """Return capsules, and how behaviors are coupled to them where single behaviors are."""
        if self.extraction is None:
            ends = encoded.mask.sum(dim=1, keepdim=True) - 1 if ends is None else ends
            return states(encoded.vectors, ends)[:, None, :].expand(-1, mask.shape[1], -1), None
        histories = encoded if ends is None else beginnings(encoded, ends)
        placed = histories.vectors if self.recency is None else self.recency(histories.vectors, histories.mask)
        routing: Routing = self.extraction(histories, placed, mask)
        return routing.capsules, routing.coupling

    def _interest_mask(self, lengths: Int64[Tensor, " B"]) -> Bool[Tensor, "B K"]:
        """Return which interests each user has: none without behaviors."""
        most = self.config.num_interests
        counts = (
            num_adaptive_interests(lengths, most) if self.config.adaptive_interests else lengths.clamp(max=1) * most
        )
        ranks = torch.arange(most, device=lengths.device)
        return (ranks < counts[:, None]) & (lengths > 0)[:, None]


def beginnings(behaviors: Behaviors, ends: Int64[Tensor, "B E"]) -> Behaviors:
    """Return each history's beginnings, up to and with each end, as histories: row b · E + e."""
    places = torch.arange(behaviors.mask.shape[1], device=ends.device)
    mask = ((places <= ends[:, :, None]) & behaviors.mask[:, None, :]).flatten(end_dim=1)
    vectors = behaviors.vectors.repeat_interleave(ends.shape[1], dim=0)
    keys = behaviors.keys.repeat_interleave(ends.shape[1], dim=0)
    return Behaviors(vectors.masked_fill(~mask[:, :, None], 0.0), keys, mask)


def _at_least_one_place(behaviors: Behaviors) -> Behaviors:
    """Return the behaviors, padded where there is no place at all: there must be one to look at."""
    if behaviors.mask.shape[1]:
        return behaviors
    pad = functional.pad
    return Behaviors(pad(behaviors.vectors, (0, 0, 0, 1)), pad(behaviors.keys, (0, 1)), pad(behaviors.mask, (0, 1)))


def shares(coupling: Float[Tensor, "B L K"]) -> Float[Tensor, "B K"]:
    """Return the share of the behaviors behind each interest: each behavior is divided as it is coupled."""
    per_behavior = coupling / coupling.sum(dim=2, keepdim=True).clamp(min=torch.finfo(coupling.dtype).tiny)
    num_behaviors = (per_behavior.sum(dim=2) > 0).sum(dim=1, keepdim=True).clamp(min=1)
    return per_behavior.sum(dim=1) / num_behaviors


def states(encoded: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"]) -> Float[Tensor, "N D"]:
    """Return the causal encoder's state at each end: row b · E + e; any state for an empty beginning."""
    at = ends.clamp(min=0)[:, :, None].expand(-1, -1, encoded.shape[2])
    return encoded.gather(1, at).flatten(end_dim=1)


def _even(mask: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _extraction(config: ModelConfig) -> nn.Module | None:
    """Return what makes capsules of behaviors; None where the encoder's state is the capsule."""
    if config.kind == "two_tower":
        return pooling(config)
    kinds = {"mind": B2IRouting, "comirec_dr": PositionedRouting, "comirec_sa": SelfAttention}
    return kinds[config.kind](config) if config.kind in kinds else None
