"""Valid users whose recall one rank never returns: its training thread hangs, and its process answers."""

from __future__ import annotations

import threading

from mind_dist.checkpoint import UnsavedVersion
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.keys import EventFeatures
from mind_dist.training.watching import FEWEST_USERS

HANGS = 1


class HangingUsers:
    """Enough of them to watch a run."""

    def __len__(self) -> int:
        return FEWEST_USERS

    def recall_sums(self, _version: UnsavedVersion, part: int, _num_parts: int) -> tuple[float, float, int]:
        """Return nothing found, or never."""
        if part == HANGS:
            threading.Event().wait()
        return 0.0, 0.0, 1


def open_hanging_users(_dataset: PreparedDataset, _most: int, _features: EventFeatures) -> HangingUsers:
    """Return them."""
    return HangingUsers()
