"""What interests are to find, and what they are to tell it from."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Candidates(NamedTuple):
    """What the interests of N ends are to find, and what they are to tell it from.

    Attributes:
        targets: Item vectors, as scored, [N, T, D].
        target_mask: True where real, [N, T].
        pool: Vectors of distinct items, the negatives, [P, D].
        targets_in_pool: Each target's place in the pool, -1 where it is not in it, [N, T].
        log_inclusion: Log of how likely each item was to be in the pool, [N, P], or [1, P] for all ends.
        own_log_inclusion: The same of the targets, where their scores are corrected, too, [N, T].
    """

    targets: Float[Tensor, "N T D"]
    target_mask: Bool[Tensor, "N T"]
    pool: Float[Tensor, "P D"]
    targets_in_pool: Int64[Tensor, "N T"]
    log_inclusion: Float[Tensor, "#N P"]
    own_log_inclusion: Float[Tensor, "N T"] | None = None
