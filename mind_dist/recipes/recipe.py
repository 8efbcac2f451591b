"""What a recipe is."""

from __future__ import annotations

from dataclasses import dataclass

from mind_dist.config import ModelConfig, TrainingConfig, check_together


@dataclass(frozen=True)
class Recipe:
    """What a model is and how it is trained.

    Attributes:
        model: The model.
        training: How it is trained.
    """

    model: ModelConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        check_together(self.model, self.training)
