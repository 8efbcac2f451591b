"""Vectors by key: those of items, and of what else a model looks up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mind_dist.records import KeyRows, Keys

K = TypeVar("K", Keys, KeyRows)


@dataclass(frozen=True)
class KeyedVectors:
    """Vectors by key.

    Attributes:
        keys: Distinct, ascending, [N].
        vectors: One a key, [N, R].
    """

    keys: Keys
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, keys: K) -> K:
        """Return each key's row, N where it is not there; of the same shape."""
        if not len(self):
            return np.zeros(keys.shape, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[at] == keys, at, len(self))

    def at(self, rows: Keys | KeyRows, width: int) -> Tensor:
        """Return the first `width` numbers of some rows' vectors, [*rows, width]; any numbers for row N."""
        if not len(self):
            return self.vectors.new_zeros(*rows.shape, width)
        wanted = torch.from_numpy(np.minimum(rows, len(self) - 1))
        return self.vectors[:, :width].index_select(0, wanted.flatten()).view(*rows.shape, width)

    def of(self, keys: Keys | KeyRows, width: int) -> Tensor:
        """Return the first `width` numbers of the keys' vectors, [*keys, width]; zeros where a key is 0 or not there."""
        rows = self.rows(keys)
        missing = torch.from_numpy((rows == len(self)) | (keys == 0))
        return self.at(rows, width).masked_fill_(missing[..., None], 0.0)
