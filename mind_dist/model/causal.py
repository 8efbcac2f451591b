"""Causal interests: behaviors and a causal encoder's states → interests at any positions, in one pass."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mind_dist.config import CausalConfig
from mind_dist.model.encoders import SequenceEncoder, at_ends
from mind_dist.model.extraction import Extracted
from mind_dist.model.interests import Behaviors
from mind_dist.model.places import decays


class CausalInterests(nn.Module):
    """Each interest is the encoder's state and a view of its own: a weighted mean of the behaviors up to there.

    An interest weighs a behavior by how long ago it was and by what it is: softmax over the past of
    lag_k(t - s) + ⟨content_k, e_s⟩. Neither depends on t but through the lag, so all positions are one product. The
    lags start as decays of different speed: some interests see what a user does now, others what the user always did.
    """

    def __init__(self, dim: int, num_interests: int, section: CausalConfig) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(decays(num_interests, section.max_lag))
        self.content = nn.Parameter(torch.zeros(dim, num_interests))

    def forward(
        self,
        behaviors: Behaviors,
        encoder: SequenceEncoder,
        ends: Int64[Tensor, "B E"] | None,
        interest_mask: Bool[Tensor, "N K"],
    ) -> Extracted:
        """Extract capsules; see `Extraction`."""
        ends = behaviors.mask.sum(dim=1, keepdim=True) - 1 if ends is None else ends
        coupling = self._coupling(behaviors, ends)
        views = torch.bmm(coupling.flatten(1, 2).to(behaviors.vectors.dtype), behaviors.vectors)  # [B, E · K, D]
        views = views.view(*interest_mask.shape, behaviors.vectors.shape[2])
        coupling = coupling.flatten(end_dim=1).transpose(1, 2) * interest_mask[:, None, :]
        state = _states_at(encoder, behaviors.vectors, ends.clamp(min=0)).flatten(end_dim=1)
        return Extracted(state[:, None, :] + views, coupling, state)

    def _coupling(self, behaviors: Behaviors, ends: Int64[Tensor, "B E"]) -> Float[Tensor, "B E K L"]:
        """Return how much each behavior counts for each interest at each end; zeros after it, or where padded."""
        # In training the ends of all windows are mostly alike: then the lags of one do for all.
        few = ends[:1] if len(ends) and bool((ends == ends[0]).all()) else ends
        lags = few[:, :, None] - torch.arange(behaviors.mask.shape[1], device=ends.device)
        of_lags = self.log_weights.T[lags.clamp(0, self.log_weights.shape[1] - 1)].transpose(2, 3).contiguous()
        of_contents = (behaviors.vectors @ self.content).transpose(1, 2).contiguous()[:, None]
        unseen = ~((lags >= 0) & behaviors.mask[:, None, :])[:, :, None, :]
        logits = of_contents + of_lags
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(unseen, lowest).softmax(dim=3).masked_fill(unseen, 0.0)


def _states_at(
    encoder: SequenceEncoder, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"]
) -> Float[Tensor, "B E D"]:
    """Return the states at the ends: one of each history by itself, several out of those at all positions."""
    return encoder(behaviors, ends) if ends.shape[1] == 1 else at_ends(encoder(behaviors), ends)
