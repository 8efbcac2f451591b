"""The train split → how often each item came after each other, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from mind_dist.evaluation.floors.train_log import TrainLog
from mind_dist.records import Keys

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of events that are counted at once; each takes about 30 bytes."""


def forward_counts(log: TrainLog, window: int, lag_power: float) -> csr_array:
    """Return how often each item came at most `window` steps after each other one in a user's events, [N, N].

    Each time counts 1 / steps to the power `lag_power`. Memory follows the pairs that there are, not N².
    """
    order = log.by_item
    ends = log.starts[1:][log.users[order]]
    lengths = np.minimum(window, ends - order - 1)
    item_starts = np.searchsorted(log.items[order], np.arange(len(log.catalog) + 1))
    weights = (np.arange(1, window + 1, dtype=np.float32) ** -np.float32(lag_power)).astype(np.float32)
    blocks = [
        _count_block(log, order, lengths, weights, item_starts[first : last + 1])
        for first, last in _blocks(lengths, item_starts)
    ]
    return vstack(blocks, format="csr") if blocks else csr_array((0, 0), dtype=np.float32)


def num_pairs(log: TrainLog, window: int) -> int:
    """Return how many pairs of events are at most `window` steps apart: what counting them costs."""
    lengths = np.diff(log.starts)
    inside = np.minimum(lengths - 1, window)
    return int((inside * lengths - inside * (inside + 1) // 2).sum())


def _blocks(lengths: Keys, item_starts: Keys) -> Iterator[tuple[int, int]]:
    """Yield ranges of items that have at most `_PAIRS_AT_ONCE` pairs together, or one item that has more."""
    pairs = np.concatenate([[0], np.cumsum(lengths)])[item_starts]
    first, num_items = 0, len(item_starts) - 1
    while first < num_items:
        last = max(first + 1, int(np.searchsorted(pairs, pairs[first] + _PAIRS_AT_ONCE, side="right")) - 1)
        yield first, last
        first = last


def _count_block(
    log: TrainLog, order: Keys, lengths: Keys, weights: NDArray[np.float32], item_starts: Keys
) -> csr_array:
    """Return the rows of some items: for each event of theirs the events that followed, summed by item."""
    events = slice(item_starts[0], item_starts[-1])
    followers = lengths[events]
    starts = np.concatenate([[0], np.cumsum(followers)])
    steps = np.arange(starts[-1]) - np.repeat(starts[:-1], followers)
    items = log.items[np.repeat(order[events], followers) + steps + 1]
    num_events, num_items = len(followers), len(log.catalog)
    after = csr_array((weights[steps], items, starts), shape=(num_events, num_items))
    ones = np.ones(num_events, dtype=np.float32)
    of_items = csr_array(
        (ones, np.arange(num_events), item_starts - item_starts[0]), shape=(len(item_starts) - 1, num_events)
    )
    return of_items @ after
