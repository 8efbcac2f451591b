"""Recipes: named settings of model and training, each value with the paper or the measurement behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mind_dist.config import ModelConfig, TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """What a model is and how it is trained.

    Attributes:
        model: The model.
        training: How it is trained.
    """

    model: ModelConfig
    training: TrainingConfig


def best() -> Recipe:
    """Return the default of `jobs/train` and of the demo."""
    return Recipe(ModelConfig(), TrainingConfig())


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType({"best": best})
"""Name → recipe."""
