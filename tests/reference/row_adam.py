"""The obvious twin of an item table's update: one parameter and one optimizer a row, stepped only when touched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mind_dist.training.sparse_rows import BETAS, EPSILON


class RowAdam:
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
