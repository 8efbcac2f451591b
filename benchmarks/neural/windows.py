"""Train users → windows, and the item after each of their positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mind_dist.records import Keys

PADDING = -1
"""Target of a position that is none."""


class Window(NamedTuple):
    """A part of a user's history: `sequences[user][start:stop]` are inputs, one place further on are targets."""

    user: int
    start: int
    stop: int


def batches(
    sequences: Sequence[Keys], length: int, positions: int, seed: int, epoch: int
) -> Iterator[tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]]:
    """Yield the inputs and targets of an epoch's steps, the same for the same seed and epoch.

    An epoch has each behavior once as a target, in windows that are cut at other places every time. A step has windows of
    nearly one length, so that few of its positions are padding. Inputs are padded with item 0, targets with `PADDING`.

    Args:
        sequences: Item rows of each user, oldest first, at least two each.
        length: Longest window L.
        positions: Most positions of a step, padding among them.
        seed: With the epoch, decides cuts and order.
        epoch: Which one.
    """
    generator = np.random.default_rng((seed, epoch))
    windows = [
        Window(user, max(0, start), min(start + length, len(rows) - 1))
        for user, rows in enumerate(sequences)
        for start in range(-int(generator.integers(length)) if len(rows) > length else 0, len(rows) - 1, length)
    ]
    steps = _steps([windows[place] for place in generator.permutation(len(windows))], positions)
    for place in generator.permutation(len(steps)):
        chosen = steps[place]
        inputs = [sequences[each.user][each.start : each.stop] for each in chosen]
        targets = [sequences[each.user][each.start + 1 : each.stop + 1] for each in chosen]
        yield padded(inputs, 0), padded(targets, PADDING)


def _steps(windows: list[Window], positions: int) -> list[list[Window]]:
    """Return windows by steps: of equal ones, which go together is up to their order."""
    steps: list[list[Window]] = [[]]
    for window in sorted(windows, key=lambda each: each.start - each.stop):
        longest = steps[-1][0].stop - steps[-1][0].start if steps[-1] else 0
        if (len(steps[-1]) + 1) * longest > positions:
            steps.append([])
        steps[-1].append(window)
    return steps


def padded(rows: Sequence[Keys], padding: int) -> Int[Tensor, "B L"]:
    """Return sequences as one tensor, as long as the longest, each padded at its end."""
    tensor = torch.full((len(rows), max(map(len, rows))), padding)
    for row, values in zip(tensor, rows, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return tensor
