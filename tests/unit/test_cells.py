"""What a benchmark makes of a recipe: other lengths, other protocols."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.trained import LEAVE_ONE_OUT_BEHAVIORS, LEAVE_ONE_OUT_EPOCHS, changed, of_length, of_protocol
from mind_dist.errors import ConfigError
from mind_dist.recipes import best, comirec_sa


@pytest.mark.parametrize(("length", "windows"), [(20, 40), (50, 16), (200, 4), (10_000, 1)])
def test_every_position_is_trained_in_as_many_places_a_step_whatever_the_length(length: int, windows: int) -> None:
    training = of_length(best().training, length)
    assert (training.max_behaviors, training.stride, training.windows_per_step) == (length, length, windows)


@pytest.mark.parametrize(("length", "stride"), [(4, 4), (50, 8)])
def test_windows_trained_at_their_end_stay_as_many(length: int, stride: int) -> None:
    paper = comirec_sa().training
    training = of_length(paper, length)
    assert training == dataclasses.replace(paper, max_behaviors=length, window_stride=stride)


def test_leave_one_out_trains_the_very_next_item_and_the_user_split_what_the_recipe_says() -> None:
    training = of_protocol(of_length(best().training, 200), "leave-one-out")
    assert (training.num_targets, training.epochs) == (1, LEAVE_ONE_OUT_EPOCHS)
    assert (training.max_behaviors, training.windows_per_step) == (LEAVE_ONE_OUT_BEHAVIORS, 8)
    assert of_protocol(best().training, "user-split") == best().training
    assert of_protocol(comirec_sa().training, "leave-one-out") == comirec_sa().training


def test_a_setting_is_changed_and_nothing_else() -> None:
    found = changed(
        best(), ("training.penalties.balance_weight=1.5", "model.hidden_dims=[32]", "training.warm_start=none")
    )
    assert (found.training.penalties.balance_weight, found.model.hidden_dims) == (1.5, (32,))
    back = ("training.penalties.balance_weight=0.6", "model.hidden_dims=[128]", "training.warm_start=cooccurrence")
    assert changed(found, back) == best()


@pytest.mark.parametrize("change", ["epochs=3", "training.epoch=3", "training.epochs.more=3", "training.epochs=none"])
def test_what_is_no_setting_or_value_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"is no setting|training\.epochs: "):
        changed(best(), (change,))
