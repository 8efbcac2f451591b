"""Interest capsules, joined with profile and context → interest vectors (MIND, section 4.4)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mind_dist.config import ModelConfig
from mind_dist.model.dropout import Dropout


class InterestHead(nn.Module):
    """Adds layers of [capsule ; profile ; context] to each capsule.

    The last layer gives zeros at first, so that a fresh model's interests are its capsules.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [_joined_width(config), *config.hidden_dims]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [Dropout(config.dropout), nn.Linear(width_in, width_out), nn.ReLU()]
        last = nn.Linear(widths[-1], config.dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, Dropout(config.dropout), last)

    def forward(self, capsules: Float[Tensor, "B K D"], joined: Float[Tensor, "B J"] | None) -> Float[Tensor, "B K D"]:
        """Return interest vectors.

        Args:
            capsules: Interest capsules.
            joined: What is tiled over the interests; None for nothing.
        """
        added: Tensor = self.layers(_tile(capsules, joined))
        return capsules + added


class NumberedHead(nn.Module):
    """Adds layers of [capsule ; state ; profile ; context], and of the interest's number, to each capsule.

    Interests that share a state are alike to begin with, and equal vectors would stay equal: so each has a bias of its own
    in the first layer, and no layer begins with zeros.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first, *rest = [*config.hidden_dims, config.dim]
        self.first = nn.Linear(_joined_width(config), first)
        self.number = nn.Parameter(torch.randn(config.num_interests, first) * 0.1)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in pairwise([first, *rest]))

    def forward(self, capsules: Float[Tensor, "B K D"], joined: Float[Tensor, "B J"] | None) -> Float[Tensor, "B K D"]:
        """Return interest vectors; see `InterestHead.forward`."""
        hidden = self._first(capsules, joined)
        for layer in self.layers:
            hidden = layer(self.dropout(nn.functional.gelu(hidden)))
        return capsules + hidden

    def _first(self, capsules: Float[Tensor, "B K D"], joined: Float[Tensor, "B J"] | None) -> Float[Tensor, "B K H"]:
        """Return the first layer of what is joined, whose share is computed once for all interests."""
        if joined is None:
            return nn.functional.linear(capsules, self.first.weight, self.first.bias) + self.number
        of_capsules, of_joined = self.first.weight.split([capsules.shape[2], joined.shape[1]], dim=1)
        shared = nn.functional.linear(joined, of_joined, self.first.bias)
        return nn.functional.linear(capsules, of_capsules) + (shared[:, None, :] + self.number)


class PlainHead(nn.Module):
    """Leaves capsules as they are, as ComiRec does."""

    def forward(self, capsules: Float[Tensor, "B K D"], joined: Float[Tensor, "B J"] | None) -> Float[Tensor, "B K D"]:
        """Return the capsules; there is nothing to join."""
        assert joined is None
        return capsules


def interest_head(config: ModelConfig) -> nn.Module:
    """Return the head that a config asks for."""
    if config.kind == "causal":
        return NumberedHead(config)
    plain = not config.hidden_dims and _joined_width(config) == config.dim
    return PlainHead() if plain else InterestHead(config)


def join(
    profile: Float[Tensor, "B P D"] | None, context: Float[Tensor, "B C"] | None, config: ModelConfig
) -> Float[Tensor, "B J"] | None:
    """Return profile and context as one vector a user; None where the model takes neither.

    Raises:
        ValueError: The config asks for one that is not there or is of another width.
    """
    features = None if profile is None else profile.flatten(start_dim=1)
    _check_width("profile", features, config.num_profile_features * config.dim)
    _check_width("context", context, config.context_dim)
    return side_by_side(features, context)


def side_by_side(*parts: Float[Tensor, "B _"] | None) -> Float[Tensor, "B J"] | None:
    """Return what there is as one vector a user; None for nothing."""
    given = [part for part in parts if part is not None]
    return torch.cat(given, dim=1) if given else None


def _joined_width(config: ModelConfig) -> int:
    num_vectors = 1 + (config.kind == "causal") + config.num_profile_features
    return config.dim * num_vectors + config.context_dim


def _tile(capsules: Float[Tensor, "B K D"], joined: Float[Tensor, "B J"] | None) -> Float[Tensor, "B K _"]:
    if joined is None:
        return capsules
    return torch.cat([capsules, joined[:, None, :].expand(-1, capsules.shape[1], -1)], dim=-1)


def _check_width(name: str, part: Float[Tensor, "B W"] | None, expected: int) -> None:
    """Raise ValueError when an input is missing, not asked for, or of another width."""
    width = 0 if part is None else part.shape[1]
    if width != expected:
        raise ValueError(f"{name} has width {width}, the model's config says {expected}")
