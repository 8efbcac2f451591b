"""What a benchmark makes of a recipe: other lengths, other protocols."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.cells import LEAVE_ONE_OUT_BEHAVIORS, LEAVE_ONE_OUT_EPOCHS, of_length, of_protocol
from mind_dist.recipes import best, comirec_sa_paper


@pytest.mark.parametrize(("length", "windows"), [(20, 40), (50, 16), (200, 4), (10_000, 1)])
def test_every_position_is_trained_in_as_many_places_a_step_whatever_the_length(length: int, windows: int) -> None:
    training = of_length(best().training, length)
    assert (training.max_behaviors, training.stride, training.windows_per_step) == (length, length, windows)


@pytest.mark.parametrize(("length", "stride"), [(4, 4), (50, 8)])
def test_windows_trained_at_their_end_stay_as_many(length: int, stride: int) -> None:
    paper = comirec_sa_paper().training
    training = of_length(paper, length)
    assert training == dataclasses.replace(paper, max_behaviors=length, window_stride=stride)


def test_leave_one_out_trains_the_very_next_item_and_the_user_split_what_the_recipe_says() -> None:
    training = of_protocol(of_length(best().training, 200), "leave-one-out")
    assert (training.num_targets, training.epochs) == (1, LEAVE_ONE_OUT_EPOCHS)
    assert (training.max_behaviors, training.windows_per_step) == (LEAVE_ONE_OUT_BEHAVIORS, 8)
    assert of_protocol(best().training, "user-split") == best().training
    assert of_protocol(comirec_sa_paper().training, "leave-one-out") == comirec_sa_paper().training
