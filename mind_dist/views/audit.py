"""Rows compared with their states, some all the time: what differs is written anew, and counted.

A row can differ for a while where an owner of before was frozen inside a write, or where somebody has meddled.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.states.local_store import LocalStore, StoredState


def sample(store: LocalStore, below: int, count: int, draw: random.Random) -> list[StoredState]:
    """Return up to `count` users whose newest state lies below a position, from a random place on."""
    if below <= 0:
        return []
    found = store.changed_from(draw.randrange(below), count)
    return [each for each in found if each.position < below]


def differing(index: VectorStore, model_version: str, users: Sequence[StoredState]) -> list[StoredState]:
    """Return the users whose rows are not of their states.

    A row that seems old is read once more, strongly: a bounded read may miss what was written in the last seconds.
    """
    suspects = list(users)
    for strong in (False, True):
        if suspects:
            rows = index.get_users(model_version, [each.user_key for each in suspects], strong=strong)
            suspects = [each for each in suspects if _differs(each, rows.get(each.user_key))]
    return suspects


def _differs(state: StoredState, row: UserRow | None) -> bool:
    if row is None:
        return bool(state.value)
    return not state.value or row.state_offset != state.position
