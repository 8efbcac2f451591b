"""What an item table is made of: rows with their Adam state, and the rows' first values."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.keys import mix
from mind_dist.records import Keys

BETAS = (0.9, 0.98)
"""Decay of Adam's first and second moment, for table rows and dense parameters alike."""

EPSILON = 1e-8
"""Keeps Adam's denominator from zero."""

_GROWN_UP = 100
"""Updates after which the learning rate of a young row is half of what it was."""

_COLUMNS = ("_vectors", "_first", "_second", "_steps")
"""What `AdamRows` has of each row."""

_PER_WORD = 4
"""Values that are made of a 64-bit number, 16 bits each."""


def initial_rows(keys: Keys, dim: int, seed: int) -> Float[Tensor, "U D"]:
    """Return the first values of rows, normal with deviation 1/√D: a function of seed and key alone.

    Each is one of 65,536 quantiles: of most rows this is all that is ever computed, and a normal value takes long to make.

    >>> bool((initial_rows(np.array([5, 7]), 4, seed=1)[1] == initial_rows(np.array([7]), 4, seed=1)[0]).all())
    True
    """
    salt = mix(np.array([seed])).view(np.int64)
    streams = mix(keys ^ salt).view(np.int64)[:, None]
    with np.errstate(over="ignore"):
        bits = mix(streams + np.arange(-(-dim // _PER_WORD)))
    which = torch.from_numpy(bits.astype("<u8").view("<u2")[:, :dim].astype(np.int32))
    return _quantiles().index_select(0, which.flatten()).view(-1, dim) / math.sqrt(dim)


@cache
def _quantiles() -> Float[Tensor, " Q"]:
    """Return the quantiles of the normal distribution in the middle of each of 65,536 equally likely ranges."""
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    quantiles: Tensor = torch.special.ndtri(middles)
    return quantiles.float()


class AdamRows:
    """Vectors by row number, with Adam's moments and the number of updates of each row.

    Args:
        dim: Width D.
        device: Where they live.
        one_second_moment: Keep one second moment a row, that of its values' mean square, as FBGEMM's row-wise Adam does,
            instead of one a value.
    """

    def __init__(self, dim: int, device: torch.device, *, one_second_moment: bool = False) -> None:
        self._size = 0
        self._vectors = torch.zeros(0, dim, device=device)
        self._first = torch.zeros(0, dim, device=device)
        self._second = torch.zeros(0, 1 if one_second_moment else dim, device=device)
        self._steps = torch.zeros(0, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return self._size

    def append(self, vectors: Float[Tensor, "N D"]) -> None:
        """Add rows that were never updated."""
        size = self._size + len(vectors)
        if size > len(self._steps):
            self._reserve(max(size, 2 * len(self._steps)))
        self._vectors[self._size : size] = vectors.to(self._vectors.device)
        for name in _COLUMNS[1:]:
            getattr(self, name)[self._size : size] = 0
        self._size = size

    def keep(self, rows: Keys) -> None:
        """Keep some rows alone, numbered from 0 in the order given."""
        at = torch.from_numpy(rows).to(self._steps.device)
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name).index_select(0, at))
        self._size = len(rows)

    def vectors(self, rows: Keys) -> Float[Tensor, "U D"]:
        """Return copies of some rows."""
        return self._vectors.index_select(0, torch.from_numpy(rows).to(self._vectors.device))

    def update(
        self,
        rows: Int64[Tensor, " U"],
        gradient: Float[Tensor, "U D"],
        learning_rate: float,
        young_learning_rate: float = 0.0,
    ) -> None:
        """Take one Adam step for some distinct rows, each with its own bias correction (lazy Adam).

        A young row may learn faster: at n updates by `young_learning_rate` / (1 + n / 100), until that is less than the other.

        Rows are copied whole, in and out: indexing by a tensor does it value by value, which takes seven times as long.
        """
        decay1, decay2 = BETAS
        rows = rows.to(self._steps.device)
        steps = self._steps.index_select(0, rows) + 1
        first = self._first.index_select(0, rows).lerp_(gradient, 1 - decay1)
        second = self._second.index_select(0, rows).mul_(decay2)
        if second.shape == gradient.shape:
            second.addcmul_(gradient, gradient, value=1 - decay2)
        else:
            second.add_(gradient.square().mean(dim=1, keepdim=True), alpha=1 - decay2)
        age = steps.double()[:, None]
        correction1, correction2 = 1 - decay1**age, 1 - decay2**age
        self._steps.index_copy_(0, rows, steps)
        self._first.index_copy_(0, rows, first)
        self._second.index_copy_(0, rows, second)
        denominator = second.sqrt_().div_(correction2.sqrt().float()).add_(EPSILON)
        rates = (young_learning_rate / (1 + age / _GROWN_UP)).clamp_(min=learning_rate)
        change = first.div_(denominator).mul_((rates / correction1).float())
        self._vectors.index_copy_(0, rows, self._vectors.index_select(0, rows).sub_(change))

    def read(self, rows: Keys) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Keys]:
        """Return vectors, first and second moments and numbers of updates of some rows."""
        at = torch.from_numpy(rows).to(self._steps.device)
        vectors, first, second = (column[at].cpu().numpy() for column in (self._vectors, self._first, self._second))
        return vectors, first, second, self._steps[at].cpu().numpy()

    def write(
        self,
        rows: Keys,
        vectors: NDArray[np.float32],
        first: NDArray[np.float32],
        second: NDArray[np.float32],
        steps: Keys,
    ) -> None:
        """Replace some rows by what `read` returned, here or where second moments are kept in the other way."""
        at = torch.from_numpy(rows).to(self._steps.device)
        if self._second.shape[1] < second.shape[1]:
            second = second.mean(axis=1, keepdims=True)
        columns = ((self._vectors, vectors), (self._first, first), (self._second, second), (self._steps, steps))
        for column, values in columns:
            column[at] = torch.from_numpy(values).to(column)

    def _reserve(self, capacity: int) -> None:
        """Make room; doubling keeps the cost of growing in proportion to the rows.

        What is not written to yet takes no memory of a CPU: so nothing is filled with zeros beforehand.
        """
        for name in _COLUMNS:
            column = getattr(self, name)
            grown = column.new_empty(capacity, *column.shape[1:])
            grown[: self._size] = column[: self._size]
            setattr(self, name, grown)
