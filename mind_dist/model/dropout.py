"""Dropout that costs a CPU little: four elements a draw of the generator, where torch's own takes one or two draws for each.

On MovieLens-1M `best` spent a ninth of a training step in torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Bits of chance for each element: a probability is met to within 1 / 131,072."""


class Dropout(nn.Dropout):
    """Zeroes each element with probability `p` and scales the others by 1 / (1 - p), in training alone.

    Its chance is torch's generator's, as that of `nn.Dropout` is; on other devices than a CPU it is `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with some of it zeroed."""
        if not self.training or not 0 < self.p < 1 or input.device.type != "cpu":
            return super().forward(input)
        kept = _bits(input.shape) >= round(self.p * _LEVELS) - _LEVELS // 2
        return input * kept.to(input.dtype).mul_(1 / (1 - self.p))


def _bits(shape: torch.Size) -> Tensor:
    """Return 16 random bits an element, as numbers from -32,768 to 32,767."""
    draws = torch.empty((shape.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return draws.view(torch.int16)[: shape.numel()].view(shape)
