"""ComiRec (arXiv 2005.09347): behaviors → interest capsules, by dynamic routing (DR) or self-attention (SA)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mind_dist.config import ComirecDrConfig
from mind_dist.model.interests import Behaviors
from mind_dist.model.places import ages
from mind_dist.model.routing import Routing, dynamic_routing, initial_logits


class PositionedRouting(nn.Module):
    """ComiRec-DR: a matrix of its own maps each behavior to each interest, by the behavior's position (section 3.2).

    Positions count from the newest behavior, so that padding and the window's length do not move them.
    """

    def __init__(self, dim: int, num_interests: int, section: ComirecDrConfig) -> None:
        super().__init__()
        self._section = section
        self.maps = nn.Parameter(torch.randn(section.positions, num_interests, dim, dim) * dim**-0.5)

    def forward(
        self, behaviors: Behaviors, placed: Float[Tensor, "B L D"], interest_mask: Bool[Tensor, "B K"]
    ) -> Routing:
        """Extract capsules; see `B2IRouting.forward`."""
        votes = self._votes(placed, behaviors.mask)
        mask = behaviors.mask[:, :, None] & interest_mask[:, None, :]
        logits = initial_logits(self._section.start, behaviors.keys, placed, behaviors.mask, interest_mask)
        return dynamic_routing(votes, mask, logits, num_iterations=self._section.iterations)

    def _votes(self, placed: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L K D"]:
        """Return what each behavior says to each interest.

        Turned round, the newest first, behaviors of an age stand in one place in all histories, so that maps are taken
        once for all users and not once each: [L, K, D, D] and not [B, L, K, D, D].
        """
        length = placed.shape[1]
        turned = ages(mask, length)  # the place where each behavior goes, and the one where it comes from
        maps = self.maps[torch.arange(length, device=placed.device).clamp(max=len(self.maps) - 1)].to(placed.dtype)
        newest_first = placed.gather(1, turned[:, :, None].expand_as(placed))
        votes = torch.einsum("bad,akde->bake", newest_first, maps)
        return votes.gather(1, turned[:, :, None, None].expand_as(votes))


class SelfAttention(nn.Module):
    """ComiRec-SA: each interest is a mean of the behaviors, by attention over positions (section 3.2).

    A = softmax over positions of W2ᵀ tanh(W1ᵀ (E + places)), capsules = A E: places say where to look and are no part
    of what is seen.
    """

    def __init__(self, dim: int, num_interests: int, hidden_dim: int = 0) -> None:
        super().__init__()
        width = hidden_dim or 4 * dim  # the paper's
        self.hidden = nn.Linear(dim, width, bias=False)
        self.attention = nn.Linear(width, num_interests, bias=False)

    def forward(
        self, behaviors: Behaviors, placed: Float[Tensor, "B L D"], interest_mask: Bool[Tensor, "B K"]
    ) -> Routing:
        """Extract capsules; see `B2IRouting.forward`."""
        coupling = self_attentive_coupling(self.attention(torch.tanh(self.hidden(placed))), behaviors.mask)
        coupling = coupling * interest_mask[:, None, :]
        return Routing(torch.bmm(coupling.transpose(1, 2).to(behaviors.vectors.dtype), behaviors.vectors), coupling)


def self_attentive_coupling(logits: Float[Tensor, "B L K"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L K"]:
    """Return the softmax over the real positions; zeros for a history without any."""
    logits = logits.masked_fill(~mask[:, :, None], torch.finfo(logits.dtype).min)
    return logits.softmax(dim=1).masked_fill(~mask[:, :, None], 0.0)
