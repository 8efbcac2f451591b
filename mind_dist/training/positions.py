"""Examples → where in their windows interests are trained, and on which items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mind_dist.examples.source import Examples, Mask
from mind_dist.records import Keys


@dataclass(frozen=True, slots=True)
class TrainedPositions:
    """E places of each of n windows, and what the interests there are to find.

    Attributes:
        ends: Last behavior that is seen, -1 for none, [n, E].
        targets: Item keys, 0 where padded, [n, E, T].
        mask: True where real, [n, E, T].
        moments: Contexts in which the targets happened, any where padded, [n, E, T, C]; [0, 0, 0, 0] where none are read.
        contexts: Contexts in which interests are asked for, [n, E, C], once `in_contexts` has chosen them.
    """

    ends: NDArray[np.int64]
    targets: Keys
    mask: Mask
    moments: Keys = field(default_factory=lambda: np.empty((0, 0, 0, 0), dtype=np.int64))
    contexts: Keys = field(default_factory=lambda: np.empty((0, 0, 0), dtype=np.int64))

    @property
    def events(self) -> tuple[Keys, Mask]:
        """Items by their place in a window's behaviors and targets, [n, W], and which of them are targets of some end.

        An event that many ends find is here once.
        """
        num_windows, _, num_targets = self.mask.shape
        places = np.where(self.mask, self.ends[:, :, None] + 1 + np.arange(num_targets), 0)
        keys = np.zeros((num_windows, int(places.max(initial=0)) + 1), dtype=np.int64)
        real = np.zeros(keys.shape, dtype=np.bool_)
        windows = np.broadcast_to(np.arange(num_windows)[:, None, None], self.mask.shape)[self.mask]
        keys[windows, places[self.mask]] = self.targets[self.mask]
        real[windows, places[self.mask]] = True
        return keys, real

    def in_contexts(self, is_told: Mask, nothing: Keys, known: Callable[[Keys], Mask]) -> TrainedPositions:
        """Ask for interests in the context of the first target, or in none.

        What is asked for in a context is what happens in it: of the targets those of the first one's context stay.

        Args:
            is_told: Where the context is told, [n, E].
            nothing: A context of which nothing is known, [C].
            known: Tells which keys have a vector; a value without one is not told.
        """
        first = self.moments[:, :, :1]
        same = (self.moments == first).all(axis=3) | ~is_told[:, :, None]
        contexts = first[:, :, 0]
        is_known = known(contexts.ravel()).reshape(contexts.shape)
        contexts = np.where(is_told[:, :, None] & is_known, contexts, nothing)
        return replace(self, mask=self.mask & same, contexts=contexts)

    @classmethod
    def after_window(cls, examples: Examples) -> TrainedPositions:
        """Train the interests of each whole window on all its targets."""
        places = np.arange(1, examples.history_mask.shape[1] + 1)
        ends = (examples.history_mask * places).max(axis=1, initial=0, keepdims=True) - 1
        moments = examples.target_moments[:, None]
        return cls(ends, examples.targets[:, None, :], examples.target_mask[:, None, :], moments)

    @classmethod
    def every(cls, examples: Examples) -> TrainedPositions:
        """Train the interests after every behavior on the T items that come next, fewer at the end of what is known.

        What comes next is in the window itself and, behind its end, in its targets.
        """
        num_windows, length = examples.history.shape
        horizon = examples.targets.shape[1]
        behind = examples.history_mask.sum(axis=1, keepdims=True)
        count = behind + examples.target_mask.sum(axis=1, keepdims=True)
        following = behind + np.arange(horizon)
        sequence = np.zeros((num_windows, length + horizon), dtype=np.int64)
        sequence[:, :length] = examples.history
        np.put_along_axis(sequence, following, examples.targets, axis=1)
        places = np.arange(length)
        at = places[:, None] + np.arange(1, horizon + 1)
        real = (places < behind)[:, :, None] & (at < count[:, :, None])
        ends = np.where(real.any(axis=2), places, -1)
        found = cls(ends, np.where(real, sequence[:, at], 0), real)
        num_names = examples.target_moments.shape[2]
        if not num_names:
            return found
        moments = np.zeros((num_windows, length + horizon, num_names), dtype=np.int64)
        moments[:, :length] = examples.history_moments
        np.put_along_axis(moments, following[:, :, None], examples.target_moments, axis=1)
        return replace(found, moments=moments[:, at])
