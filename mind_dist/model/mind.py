"""MIND (arXiv 1904.08030): behaviors → interests."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mind_dist.config import ModelConfig
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import unit_vectors
from mind_dist.model.routing import b2i_dynamic_routing, content_keyed_logits, num_adaptive_interests


class MIND(nn.Module):
    """Multi-interest network with dynamic routing.

    Behaviors are mapped by one shared matrix S, routed to interest capsules, and each capsule, joined with the
    profile and the context, goes through ReLU layers. Two things differ from the paper: the
    layers' output is added to the capsule, and S starts as the identity, so that a fresh model's interests are
    means of the very item vectors they are to find; routing starts from `content_keyed_logits`, so that the same
    history always gives the same vectors.

    >>> behaviors = Behaviors(torch.ones(1, 3, 8), torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    >>> interests = MIND(ModelConfig(dim=8, num_interests=2))(behaviors)
    >>> interests.vectors.shape, interests.mask.tolist()
    (torch.Size([1, 2, 8]), [[True, False]])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bilinear = nn.Parameter(torch.eye(config.dim))
        self.head = _head(config)

    def forward(
        self,
        behaviors: Behaviors,
        profile: Float[Tensor, "B P D"] | None = None,
        context: Float[Tensor, "B C"] | None = None,
    ) -> Interests:
        """Extract interests.

        Args:
            behaviors: The histories.
            profile: One vector per profile feature; zeros where missing.
            context: A query or context vector.

        Raises:
            ValueError: The config asks for a profile or a context that is not there or is of another width.
        """
        mask = self._interest_mask(behaviors.mask)
        mapped = behaviors.vectors.masked_fill(~behaviors.mask[:, :, None], 0.0) @ self.bilinear
        routing = b2i_dynamic_routing(
            mapped,
            behaviors.mask,
            mask,
            content_keyed_logits(behaviors.keys, self.config.num_interests),
            num_iterations=self.config.routing_iterations,
        )
        joined = [routing.capsules, *self._tiled(profile, context)]
        vectors = routing.capsules + self.head(torch.cat(joined, dim=-1))
        if self.config.normalize:
            vectors = unit_vectors(vectors)
        num_behaviors = behaviors.mask.sum(dim=1, keepdim=True).clamp(min=1)
        weights = routing.coupling.sum(dim=1) / num_behaviors
        return Interests(vectors.masked_fill(~mask[:, :, None], 0.0), mask, weights)

    def _interest_mask(self, behavior_mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B K"]:
        """Return which interests each user has: none without behaviors."""
        lengths = behavior_mask.sum(dim=1)
        most = self.config.num_interests
        counts = (
            num_adaptive_interests(lengths, most) if self.config.adaptive_interests else lengths.clamp(max=1) * most
        )
        ranks = torch.arange(most, device=lengths.device)
        return (ranks < counts[:, None]) & (lengths > 0)[:, None]

    def _tiled(
        self, profile: Float[Tensor, "B P D"] | None, context: Float[Tensor, "B C"] | None
    ) -> list[Float[Tensor, "B K _"]]:
        """Return what is joined to the capsules, once per interest."""
        features = None if profile is None else profile.flatten(start_dim=1)
        _check_width("profile", features, self.config.num_profile_features * self.config.dim)
        _check_width("context", context, self.config.context_dim)
        given = [part for part in (features, context) if part is not None]
        return [part[:, None, :].expand(-1, self.config.num_interests, -1) for part in given]


def _head(config: ModelConfig) -> nn.Sequential:
    """Return the ReLU layers; the last gives zeros at first, so that a fresh model's interests are its capsules."""
    widths = [config.dim * (1 + config.num_profile_features) + config.context_dim, *config.hidden_dims]
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    last = nn.Linear(widths[-1], config.dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _check_width(name: str, part: Float[Tensor, "B W"] | None, expected: int) -> None:
    """Raise ValueError when an input is missing, not asked for, or of another width."""
    width = 0 if part is None else part.shape[1]
    if width != expected:
        raise ValueError(f"{name} has width {width}, the model's config says {expected}")
