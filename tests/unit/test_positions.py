"""Where in their windows interests are trained, and on what: always on what comes next in the true sequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.examples.source import Examples
from mind_dist.training.positions import TrainedPositions

LONGEST, HORIZON = 6, 3

lengths = st.lists(st.tuples(st.integers(0, LONGEST), st.integers(0, HORIZON)), max_size=6)
"""How many behaviors and how many targets each window has."""


def windows(sizes: list[tuple[int, int]], longest: int = LONGEST, horizon: int = HORIZON) -> Examples:
    """Return windows of items that are their user's number and, counted from 1, their place in the sequence."""
    behind, ahead = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    first = np.arange(1, len(sizes) + 1)[:, None] * 100 + 1
    history_mask, target_mask = np.arange(longest) < behind[:, None], np.arange(horizon) < ahead[:, None]
    return Examples(
        np.where(history_mask, first + np.arange(longest), 0),
        history_mask,
        np.where(target_mask, first + behind[:, None] + np.arange(horizon), 0),
        target_mask,
        np.zeros((len(sizes), 0), dtype=np.int64),
        behind,
    )


@given(lengths)
def test_after_a_window_all_its_targets_are_trained_on_the_whole_of_it(sizes: list[tuple[int, int]]) -> None:
    examples = windows(sizes)
    trained = TrainedPositions.after_window(examples)
    assert trained.ends.tolist() == [[behind - 1] for behind, _ in sizes]
    np.testing.assert_array_equal(trained.targets[:, 0], examples.targets)
    np.testing.assert_array_equal(trained.mask[:, 0], examples.target_mask)


@given(lengths)
def test_each_end_has_the_next_items_of_the_true_sequence_nearest_first(sizes: list[tuple[int, int]]) -> None:
    trained = TrainedPositions.every(windows(sizes))
    assert trained.ends.shape == (len(sizes), LONGEST)
    assert trained.targets.shape == trained.mask.shape == (len(sizes), LONGEST, HORIZON)
    for window, (behind, ahead) in enumerate(sizes):
        for place in range(LONGEST):
            last = min(place + HORIZON, behind + ahead - 1) if place < behind else place
            assert trained.ends[window, place] == (place if last > place else -1)
            expected = [(window + 1) * 100 + 1 + at for at in range(place + 1, last + 1)]
            assert trained.targets[window, place][trained.mask[window, place]].tolist() == expected
            assert trained.targets[window, place].tolist() == expected + [0] * (HORIZON - len(expected))


@pytest.mark.parametrize(("longest", "horizon"), [(1, 1), (1, 4), (5, 1), (2, 7)])
def test_windows_of_any_width_are_trained_everywhere(longest: int, horizon: int) -> None:
    trained = TrainedPositions.every(windows([(longest, horizon)], longest, horizon))
    assert trained.mask.all()
    assert trained.ends.tolist() == [list(range(longest))]


def test_next_items_are_those_right_behind_when_one_is_looked_ahead() -> None:
    trained = TrainedPositions.every(windows([(6, 1), (3, 1)], horizon=1))
    assert trained.targets[0, :, 0].tolist() == [102, 103, 104, 105, 106, 107]
    assert trained.targets[1, :, 0].tolist() == [202, 203, 204, 0, 0, 0]


@given(lengths)
def test_an_event_is_there_once_however_many_positions_it_is_told(sizes: list[tuple[int, int]]) -> None:
    examples = windows(sizes)
    for trained, skipped in ((TrainedPositions.every(examples), 1), (TrainedPositions.after_window(examples), None)):
        keys, real = trained.events
        for window, (behind, ahead) in enumerate(sizes):
            places = range(behind if skipped is None else min(skipped, behind), behind + ahead)
            expected = [(window + 1) * 100 + 1 + at for at in places]
            if skipped and not behind:  # nothing is known before the targets
                expected = []
            assert keys[window][real[window]].tolist() == expected
