"""What the ranks of a run agree on: sums and gathered rows, or nothing at all when there is one rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, distributed


class Collectives(Protocol):
    """Calls that every rank makes equally often and in the same order."""

    @property
    def rank(self) -> int:
        """This worker, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks of some numbers, exact for integers below 2⁵³."""
        ...

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows [n_r, …] in rank order; ranks may have different numbers of them."""
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value in rank order; for what is small and rare."""
        ...


class SingleRank:
    """The collectives of a run with one worker: every sum is its own."""

    rank = 0
    world_size = 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values."""
        return list(values)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the rows."""
        return [rows]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value."""
        return [value]


class ProcessGroup:
    """The collectives of torch.distributed's default process group.

    Args:
        device: Where its backend reaches tensors: the CPU for gloo, this rank's GPU for nccl.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        distributed.all_reduce(total)
        return [float(value) for value in total]

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows: padded to the longest, gathered, cut again."""
        sent = rows.to(self._device)
        lengths = [int(length) for length in self._lengths(len(sent))]
        padded = sent.new_zeros(max(lengths), *sent.shape[1:])
        padded[: len(sent)] = sent
        received = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(received, padded)
        return [part[:length].to(rows.device) for part, length in zip(received, lengths, strict=True)]

    def _lengths(self, length: int) -> list[Tensor]:
        """Return every rank's number of rows."""
        own = torch.tensor(length, device=self._device)
        lengths = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(lengths, own)
        return lengths

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value."""
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values
