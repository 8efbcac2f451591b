"""Ranks that are threads of one process: what each does is what it would do in a process of its own, without starting one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from mind_dist.training.collectives import Collectives

T = TypeVar("T")


class _Meeting:
    """Where threads leave what all of them get."""

    def __init__(self, num_ranks: int) -> None:
        self.left: list[Any] = [None] * num_ranks
        self.barrier = threading.Barrier(num_ranks, timeout=60)


class ThreadRank:
    """The collectives of one thread."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        self.world_size = len(meeting.left)
        self._meeting = meeting

    def gather_objects(self, value: Any) -> list[Any]:
        self._meeting.left[self.rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.left)
        self._meeting.barrier.wait()  # nobody leaves the next one before all have this
        return found

    def meet(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(self.gather_objects([*map(float, values)]), dtype=torch.float64)

    def sum(self, values: Sequence[float]) -> list[float]:
        found: list[float] = self.meet(values).sum(dim=0).tolist()
        return found

    def gather(self, rows: Tensor) -> list[Tensor]:
        return self.gather_objects(rows)

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        parts = [part[self.rank] for part in self.gather_objects(rows.split(list(sent)))]
        assert [len(part) for part in parts] == list(received)
        return torch.cat(parts)

    def average(self, tensors: Sequence[Tensor], also: Sequence[float] = ()) -> list[float]:
        for tensor in tensors:
            tensor.copy_(torch.stack(self.gather_objects(tensor.clone())).mean(dim=0))
        return self.sum(also)

    def fail(self, error: Exception) -> NoReturn:
        self._meeting.barrier.abort()
        raise error


def together(num_ranks: int, work: Callable[[Collectives], T]) -> list[T]:
    """Return what each of some ranks returns, which do the same at the same time."""
    meeting = _Meeting(num_ranks)

    def one(rank: int) -> T:
        try:
            return work(ThreadRank(rank, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(one, range(num_ranks)))
