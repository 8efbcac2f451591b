"""What the ranks of a run agree on: sums, gathered rows, averages — and that one of them cannot go on.

Every collective of `ProcessGroup` begins in the same way: each rank sends a few numbers, the first of which says whether
it is well. A rank that has failed, wherever that was, sends that it has at the next collective; so all ranks learn of it
where they meet anyway, and raise the same error together instead of waiting for each other until a timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, distributed

from mind_dist.errors import MindDistError, TrainingError
from mind_dist.training.pulse import Activity

_WELL, _FAILED = 0.0, 1.0

_MOST_NUMBERS = 7
"""Numbers that a collective may begin with, beside how a rank is and one for each rank."""


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
        """Return the sums over ranks of up to 7 numbers, exact for integers below 2⁵³."""
        ...

    def meet(self, values: Sequence[float]) -> Tensor:
        """Return the numbers of every rank, [R, n]: up to 7 and one for each rank, exact for integers below 2⁵³."""
        ...

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows [n_r, …] in rank order; ranks may have different numbers of them."""
        ...

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send rows to ranks, and return what they send here, in rank order.

        Unlike the others it does not begin with what tells whether all ranks are well: call it straight after one that
        does, with nothing between them that may fail on one rank alone.

        Args:
            rows: Those for the first rank first, [n, …].
            sent: How many are for each rank.
            received: How many each rank has for this one.
        """
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value in rank order; for what is small and rare."""
        ...

    def average(self, tensors: Sequence[Tensor], also: Sequence[float] = ()) -> list[float]:
        """Replace float32 tensors, of the same shapes on all ranks, with their means over ranks.

        Args:
            tensors: This rank's.
            also: Up to 7 numbers, whose sums over ranks are returned.
        """
        ...

    def fail(self, error: Exception) -> NoReturn:
        """Tell the other ranks, at their next collective, that this one cannot go on; then all raise the error.

        Raises:
            MindDistError: Always: the error of the first rank that failed, which is named where there are several. What
                is no error of ours is a TrainingError.
        """
        ...


@contextmanager
def failing_together(ranks: Collectives) -> Iterator[None]:
    """Let an exception on any rank be raised by all of them; collective at the end.

    Raises:
        MindDistError: See `Collectives.fail`.
    """
    try:
        yield
        ranks.sum([])
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are to know
        ranks.fail(error)


class SingleRank:
    """The collectives of a run with one worker: every sum is its own."""

    rank = 0
    world_size = 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values."""
        return list(values)

    def meet(self, values: Sequence[float]) -> Tensor:
        """Return the values."""
        return torch.tensor([list(map(float, values))], dtype=torch.float64)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the rows."""
        return [rows]

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:  # noqa: ARG002
        """Return the rows."""
        return rows

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value."""
        return [value]

    def average(self, tensors: Sequence[Tensor], also: Sequence[float] = ()) -> list[float]:  # noqa: ARG002
        """Leave the tensors as they are."""
        return list(also)

    def fail(self, error: Exception) -> NoReturn:
        """Raise the error as it is."""
        raise error


class ProcessGroup:
    """The collectives of torch.distributed's default process group.

    Args:
        device: Where its backend reaches tensors: the CPU for gloo, this rank's GPU for nccl.
        activity: Where to note that this rank is in a collective.
    """

    def __init__(self, device: torch.device, activity: Activity | None = None) -> None:
        self._device = device
        self._activity = activity or Activity()
        self._failure: Exception | None = None
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks, added in rank order."""
        return self.meet(values).sum(dim=0).tolist()

    def meet(self, values: Sequence[float]) -> Tensor:
        """Begin a collective: return the numbers of every rank, or raise if one of them has failed."""
        received = self._gather_numbers(_WELL, values)
        if bool((received[:, 0] != _WELL).any()):
            self._raise_together(None)
        return received[:, 1 : 1 + len(values)]

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows: padded to the longest, gathered, cut again."""
        sent = rows.to(self._device)
        lengths = [int(length) for length in self.meet([len(sent)])[:, 0]]
        padded = sent.new_zeros(max(lengths), *sent.shape[1:])
        padded[: len(sent)] = sent
        received = [torch.empty_like(padded) for _ in lengths]
        self._call(distributed.all_gather, received, padded)
        return [part[:length].to(rows.device) for part, length in zip(received, lengths, strict=True)]

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send rows to ranks, and return what they send."""
        outgoing = rows.to(self._device).contiguous()
        incoming = outgoing.new_empty(sum(received), *rows.shape[1:])
        self._call(distributed.all_to_all_single, incoming, outgoing, list(received), list(sent))
        return incoming.to(rows.device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value."""
        self.meet([])
        return self._gather_values(value)

    def average(self, tensors: Sequence[Tensor], also: Sequence[float] = ()) -> list[float]:
        """Average tensors over ranks, all in one message."""
        sums = self.sum(also)
        if not tensors:
            return sums
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._call(distributed.all_reduce, flat)
        parts = (flat / self.world_size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
        return sums

    def fail(self, error: Exception) -> NoReturn:
        """Send at the next collective that this rank has failed, and raise what the first such rank did."""
        if self._failure is None:
            self._gather_numbers(_FAILED, [])
            self._raise_together(error)
        raise self._failure

    def _gather_numbers(self, state: float, values: Sequence[float]) -> Tensor:
        """Return every rank's state and numbers, [R, 1 + 7 + R]."""
        sent = torch.zeros(1 + _MOST_NUMBERS + self.world_size, dtype=torch.float64)
        sent[: 1 + len(values)] = torch.tensor([state, *map(float, values)], dtype=torch.float64)
        sent = sent.to(self._device)
        received = [torch.empty_like(sent) for _ in range(self.world_size)]
        with self._activity.collective():  # NCCL's own call returns at once: it is waited for where numbers are read
            self._call(distributed.all_gather, received, sent)
            return torch.stack(received).cpu()

    def _raise_together(self, own: Exception | None) -> NoReturn:
        """Raise the first rank's error, on all ranks. They are all here, each with its error or none."""
        found: list[MindDistError | None] = self._gather_values(own and _of_ours(own, self.rank, self.world_size))
        failure = self._failure = next(error for error in found if error is not None)
        raise failure from own

    def _gather_values(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        self._call(distributed.all_gather_object, values, value)
        return values

    def _call(self, collective: Callable[..., object], *tensors: Any) -> None:
        """Call torch; where the others cannot be reached any more, this rank fails alone."""
        try:
            with self._activity.collective():
                collective(*tensors)
        except RuntimeError as error:
            self._failure = error
            raise


def _of_ours(error: Exception, rank: int, world_size: int) -> MindDistError:
    """Return an error that travels, and names its rank: the same one if it is ours, or else a TrainingError."""
    where = f"worker {rank} of {world_size}"
    if not isinstance(error, MindDistError):
        return TrainingError(f"{where}: {type(error).__name__}: {error}; its traceback is in that worker's log")
    error.args = (f"{where}: {error}", *error.args[1:])
    return error
