"""Interests × items → scores: what targets and their negatives are told apart by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from mind_dist.model.interests import Interests


class Scores(NamedTuple):
    """What each target's user scores.

    Attributes:
        own: The target, [B, T].
        pool: The items of the pool, as each target's user sees them, [B, T, P].
    """

    own: Float[Tensor, "B T"]
    pool: Float[Tensor, "B T P"]


Scoring = Callable[[Interests, Float[Tensor, "B T D"], Float[Tensor, "P D"]], Scores]
"""Scores each user's targets, and the items of the pool as each target's user sees them."""
