"""Keys → the ranks their rows live at, and the way there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mind_dist.keys import partition_of
from mind_dist.records import Keys
from mind_dist.training.collectives import Collectives


@dataclass(frozen=True)
class KeyRoute:
    """The way of a batch's distinct keys to the ranks where their rows live, of their rows back, and of gradients there.

    Attributes:
        received: Keys that were asked of this rank, those of the first rank first, [A].
        lengths_received: How many each rank asked for.
    """

    received: Keys
    lengths_received: list[int]
    _ranks: Collectives
    _order: Tensor | None
    """This rank's keys by the rank they live at; None where they stand so."""
    _lengths_sent: list[int]

    @classmethod
    def of(cls, keys: Keys, ranks: Collectives, also: Sequence[float]) -> tuple[KeyRoute, list[float]]:
        """Send keys to where their rows live, and return the way, and sums over the ranks. Collective.

        Args:
            keys: This rank's, distinct, [U].
            ranks: All of them.
            also: Numbers to be summed on the way.
        """
        num_ranks = ranks.world_size
        if num_ranks == 1:
            return cls(keys, [len(keys)], ranks, None, [len(keys)]), ranks.sum(also)
        homes = partition_of(keys, num_ranks)
        order = np.argsort(homes, kind="stable")
        lengths = np.bincount(homes, minlength=num_ranks)
        told = ranks.meet([*lengths.tolist(), *also])
        to_here = told[:, ranks.rank].long().tolist()
        received = ranks.exchange(torch.from_numpy(keys[order]), lengths.tolist(), to_here)
        route = cls(received.numpy(), to_here, ranks, torch.from_numpy(order), lengths.tolist())
        return route, told[:, num_ranks:].sum(dim=0).tolist()

    def fetched(self, rows: Float[Tensor, "A R"]) -> Float[Tensor, "U R"]:
        """Give the rows that were asked of this rank, and return those of this rank's keys, in their order. Collective."""
        got = self._ranks.exchange(rows, self.lengths_received, self._lengths_sent)
        if self._order is None:
            return got
        return torch.empty_like(got).index_copy_(0, self._order.to(got.device), got)

    def brought(self, gradient: Float[Tensor, "U R"]) -> Float[Tensor, "A R"]:
        """Send each key's gradient to its row, and return those for the rows of this rank. Collective."""
        if self._order is not None:
            gradient = gradient.index_select(0, self._order.to(gradient.device))
        return self._ranks.exchange(gradient, self._lengths_sent, self.lengths_received)
