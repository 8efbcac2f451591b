"""Where in their windows interests are trained, and on what: always on what comes next in the true sequence."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.data.sequences import Examples
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


@given(lengths, st.integers(0, 1 << 32))
def test_each_end_has_one_of_the_next_items_of_the_true_sequence(sizes: list[tuple[int, int]], seed: int) -> None:
    trained = TrainedPositions.every(windows(sizes), np.random.default_rng(seed))
    assert trained.ends.shape == (len(sizes), LONGEST)
    assert trained.targets.shape == trained.mask.shape == (len(sizes), LONGEST, 1)
    for window, (behind, ahead) in enumerate(sizes):
        for place in range(LONGEST):
            told = place < behind and place < behind + ahead - 1
            assert trained.ends[window, place] == (place if told else -1)
            assert trained.mask[window, place, 0] == told
            item = trained.targets[window, place, 0]
            if told:
                last = min(place + HORIZON, behind + ahead - 1)
                assert (window + 1) * 100 + 1 + place < item <= (window + 1) * 100 + 1 + last
            else:
                assert item == 0


def test_every_one_of_the_next_items_is_reached_and_evenly() -> None:
    sizes, generator = [(6, 3), (4, 1), (1, 2), (2, 0)], np.random.default_rng(3)
    examples, drawn = windows(sizes), defaultdict[tuple[int, int], list[int]](list)
    for _ in range(900):
        trained = TrainedPositions.every(examples, generator)
        for window, place in np.argwhere(trained.mask[:, :, 0]).tolist():
            first = (window + 1) * 100 + 1
            drawn[window, place].append(int(trained.targets[window, place, 0]) - first - place)
    for window, (behind, ahead) in enumerate(sizes):
        for place in range(behind):
            choices = min(HORIZON, behind + ahead - 1 - place)
            counts = np.bincount(drawn[window, place], minlength=1)
            assert len(counts) == choices + 1
            if choices:
                assert counts[0] == 0
                assert counts[1:].min() > 0.8 * 900 / choices


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    examples = windows([(6, 3)] * 20)
    first, again, other = (TrainedPositions.every(examples, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.targets, again.targets)
    assert (first.targets != other.targets).any()


@pytest.mark.parametrize(("longest", "horizon"), [(1, 1), (1, 4), (5, 1), (2, 7)])
def test_windows_of_any_width_are_trained_everywhere(longest: int, horizon: int) -> None:
    trained = TrainedPositions.every(windows([(longest, horizon)], longest, horizon), np.random.default_rng(0))
    assert trained.mask.all()
    assert trained.ends.tolist() == [list(range(longest))]


def test_next_items_are_those_right_behind_when_one_is_looked_ahead() -> None:
    trained = TrainedPositions.every(windows([(6, 1), (3, 1)], horizon=1), np.random.default_rng(0))
    assert trained.targets[0, :, 0].tolist() == [102, 103, 104, 105, 106, 107]
    assert trained.targets[1, :, 0].tolist() == [202, 203, 204, 0, 0, 0]
