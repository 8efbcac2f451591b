"""The obvious twins of an item table's update: each row by itself, stepped only when touched."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mind_dist.training.sparse_rows import BETAS, EPSILON


class RowAdam:
    """One parameter and one optimizer a row."""

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        self.rows = {key: torch.nn.Parameter(row.clone()) for key, row in rows.items()}
        self.optimizers = {
            key: torch.optim.Adam([row], betas=BETAS, eps=EPSILON, foreach=False) for key, row in self.rows.items()
        }

    def update(self, gradients: Mapping[int, Tensor], learning_rate: float) -> None:
        for key, gradient in gradients.items():
            self.rows[key].grad = gradient
            self.optimizers[key].param_groups[0]["lr"] = learning_rate
            self.optimizers[key].step()


class RowWiseAdam:
    """Adam with one second moment a row: that of its values' mean square."""

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        self.rows = {key: row.clone() for key, row in rows.items()}
        self._first = {key: [0.0] * len(row) for key, row in rows.items()}
        self._second = dict.fromkeys(rows, 0.0)
        self._steps = dict.fromkeys(rows, 0)

    def update(self, gradients: Mapping[int, Tensor], learning_rate: float) -> None:
        decay1, decay2 = BETAS
        for key, gradient in gradients.items():
            values = gradient.tolist()
            mean_square = sum(value * value for value in values) / len(values)
            self._steps[key] += 1
            self._second[key] = decay2 * self._second[key] + (1 - decay2) * mean_square
            root = math.sqrt(self._second[key] / (1 - decay2 ** self._steps[key]))
            for at, value in enumerate(values):
                self._first[key][at] = decay1 * self._first[key][at] + (1 - decay1) * value
                first = self._first[key][at] / (1 - decay1 ** self._steps[key])
                self.rows[key][at] -= learning_rate * first / (root + EPSILON)
