"""What every multi-interest model takes and returns: behaviors → `Interests`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Behaviors(NamedTuple):
    """A batch of histories, oldest first, padded at the end.

    Attributes:
        vectors: Item vectors, [B, L, D].
        keys: Item keys, [B, L]; any value where padded.
        mask: True where real, [B, L].
    """

    vectors: Float[Tensor, "B L D"]
    keys: Int64[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]


class Interests(NamedTuple):
    """What a model says of a batch of users.

    Attributes:
        vectors: Interest vectors, [B, K, D]; zeros where masked.
        mask: True where the user has that interest, [B, K]; a user without behaviors has none.
        coupling: How much each behavior counts for each interest, [B, L, K]; zeros where either is masked.
    """

    vectors: Float[Tensor, "B K D"]
    mask: Bool[Tensor, "B K"]
    coupling: Float[Tensor, "B L K"]

    @property
    def weights(self) -> Float[Tensor, "B K"]:
        """The share of the behaviors behind each interest, each behavior divided as it is coupled; a user's sum to 1."""
        tiny = torch.finfo(self.coupling.dtype).tiny
        per_behavior = self.coupling / self.coupling.sum(dim=2, keepdim=True).clamp(min=tiny)
        num_behaviors = (per_behavior.sum(dim=2) > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return per_behavior.sum(dim=1) / num_behaviors

    def take(self, users: Bool[Tensor, " B"]) -> Interests:
        """Return the interests of some of the users."""
        return self if bool(users.all()) else Interests(*(part[users] for part in self))


class InterestModel(Protocol):
    """The one signature of all models."""

    def __call__(
        self,
        behaviors: Behaviors,
        profile: Float[Tensor, "B P D"] | None = None,
        context: Float[Tensor, "N C"] | None = None,
        ends: Int64[Tensor, "B E"] | None = None,
    ) -> Interests:
        """Extract interests.

        Args:
            behaviors: The histories.
            profile: One vector per profile feature, concatenated and joined to every interest (P_u of MIND).
            context: A query or context vector for each of the N rows that come out, joined to every interest the same
                way.
            ends: Extract, instead of the interests of B whole histories, those of B · E beginnings of them: row
                b · E + e is history b up to, and with, behavior `ends[b, e]`; -1 for an empty one.
        """
        ...
