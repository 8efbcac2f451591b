"""Histories and their encoder → interest capsules: what all extractions take and return."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mind_dist.model.encoders import SequenceEncoder
from mind_dist.model.interests import Behaviors
from mind_dist.model.places import Recency
from mind_dist.model.routing import Routing


class Extracted(NamedTuple):
    """What was extracted of N = B · E beginnings of histories.

    Attributes:
        capsules: Interest capsules, [N, K, D].
        coupling: How much each behavior counts for each interest, [N, L, K]; zeros where either is masked.
        state: What the head sees beside each capsule, [N, D]; None for nothing.
    """

    capsules: Float[Tensor, "N K D"]
    coupling: Float[Tensor, "N L K"]
    state: Float[Tensor, "N D"] | None = None


class Extraction(Protocol):
    """From histories to capsules, at their ends or at any positions."""

    def __call__(
        self,
        behaviors: Behaviors,
        encoder: SequenceEncoder,
        ends: Int64[Tensor, "B E"] | None,
        interest_mask: Bool[Tensor, "N K"],
    ) -> Extracted:
        """Extract capsules.

        Args:
            behaviors: The histories, zeros where padded.
            encoder: The causal encoder, asked for as many states as are needed.
            ends: Last behavior of each beginning, -1 for an empty one; None for the whole histories, N = B.
            interest_mask: True for the interests each beginning has.
        """
        ...


class OfBeginnings(nn.Module):
    """Runs an extraction of whole histories on each beginning, seen as a history of its own.

    Args:
        dim: Width D.
        recency: Ages that have a learned vector; 0 for none.
        inner: Takes behaviors, their vectors with places added, and the interests' mask.
    """

    def __init__(self, dim: int, recency: int, inner: nn.Module) -> None:
        super().__init__()
        self.recency = Recency(dim, recency) if recency else None
        self.inner = inner

    def forward(
        self,
        behaviors: Behaviors,
        encoder: SequenceEncoder,
        ends: Int64[Tensor, "B E"] | None,
        interest_mask: Bool[Tensor, "N K"],
    ) -> Extracted:
        """Extract capsules; see `Extraction`."""
        encoded = behaviors._replace(vectors=encoder(behaviors.vectors))
        histories = encoded if ends is None or _are_last(ends, behaviors.mask) else beginnings(encoded, ends)
        placed = histories.vectors if self.recency is None else self.recency(histories.vectors, histories.mask)
        routing: Routing = self.inner(histories, placed, interest_mask)
        return Extracted(routing.capsules, routing.coupling)


def _are_last(ends: Int64[Tensor, "B E"], mask: Bool[Tensor, "B L"]) -> bool:
    """Tell whether each history is asked for whole, and once: then none need be copied."""
    return ends.shape[1] == 1 and bool((ends[:, 0] == mask.sum(dim=1) - 1).all())


def beginnings(behaviors: Behaviors, ends: Int64[Tensor, "B E"]) -> Behaviors:
    """Return each history's beginnings, up to and with each end, as histories: row b · E + e."""
    places = torch.arange(behaviors.mask.shape[1], device=ends.device)
    mask = ((places <= ends[:, :, None]) & behaviors.mask[:, None, :]).flatten(end_dim=1)
    vectors = behaviors.vectors.repeat_interleave(ends.shape[1], dim=0)
    keys = behaviors.keys.repeat_interleave(ends.shape[1], dim=0)
    return Behaviors(vectors.masked_fill(~mask[:, :, None], 0.0), keys, mask)
