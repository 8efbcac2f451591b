"""A recipe → as it is trained here: for a length of histories, for a protocol, with settings that are tried."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.tasks import Protocol
from mind_dist.config import ModelConfig, TrainingConfig, dump, parse
from mind_dist.errors import ConfigError
from mind_dist.recipes import Recipe

LEAVE_ONE_OUT_EPOCHS = 17
"""Half an hour of one core on MovieLens-1M."""

LEAVE_ONE_OUT_BEHAVIORS = 100
"""The newest of the 200 shown: an epoch takes a third less time than with all of them."""


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return a recipe with other settings: `training.epochs=4`, the value as JSON, or a text as it is.

    Raises:
        ConfigError: There is no such setting, or it may not be that.
    """
    if not changes:
        return recipe
    sections = settings_of(recipe)
    for change in changes:
        path, _, value = change.partition("=")
        *above, name = path.split(".")
        section: Any = sections
        for part in above:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise ConfigError("vary", f"{path!r} is no setting; there is training.epochs, model.dropout and so on")
        try:
            section[name] = json.loads(value)
        except ValueError:
            section[name] = value
    return Recipe(
        parse(ModelConfig, sections["model"], where="model"),
        parse(TrainingConfig, sections["training"], where="training"),
    )


def of_length(training: TrainingConfig, max_behaviors: int) -> TrainingConfig:
    """Return the same training with other histories, and windows no further apart than they are long."""
    stride = min(training.window_stride, max_behaviors)
    return dataclasses.replace(training, max_behaviors=max_behaviors, window_stride=stride)


def of_protocol(training: TrainingConfig, protocol: Protocol) -> TrainingConfig:
    """Return how a recipe is trained for a protocol.

    By leave-one-out the very next item is asked for, so there is one target: with ten, the nearer ones weighted more,
    HR@10 on the item before the last was .277, with one .291. It gains from more epochs than the user split, for which
    shorter histories leave the time.
    """
    if protocol == "leave-one-out" and training.every_position:
        training = of_length(training, LEAVE_ONE_OUT_BEHAVIORS)
        return dataclasses.replace(training, num_targets=1, epochs=LEAVE_ONE_OUT_EPOCHS)
    return training


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return all settings of a recipe as plain JSON values."""
    return {"model": dump(recipe.model), "training": dump(recipe.training)}
