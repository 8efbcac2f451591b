"""Interests and what they are to find → the loss: the objective that a config asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from mind_dist.config import BestConfig, HardConfig, LabelAwareConfig, ObjectiveConfig
from mind_dist.model.interests import Interests
from mind_dist.model.objectives.best import BestObjective
from mind_dist.model.objectives.candidates import Candidates
from mind_dist.model.objectives.hard import hard_scores
from mind_dist.model.objectives.label_aware import label_aware_scores
from mind_dist.model.objectives.scores import Scoring
from mind_dist.model.objectives.softmax import sampled_softmax_loss

Objective = Callable[[Interests, Candidates], Float[Tensor, ""]]
"""What a model is trained for: the loss, summed over the real targets; 0, still with a graph, when there are none."""


@dataclass(frozen=True)
class SoftmaxObjective:
    """A softmax over the scores that one way of choosing interests gives.

    Attributes:
        scoring: That way.
        temperature: Divides the scores.
        hard_beta: By how much hard negatives count more.
    """

    scoring: Scoring
    temperature: float
    hard_beta: float = 0.0

    def __call__(self, interests: Interests, candidates: Candidates) -> Float[Tensor, ""]:
        """Return the summed negative log likelihood of the targets; see `sampled_softmax_loss`."""
        return sampled_softmax_loss(
            *self.scoring(interests, candidates.targets, candidates.pool),
            candidates.target_mask,
            candidates.targets_in_pool,
            candidates.log_inclusion,
            temperature=self.temperature,
            own_log_inclusion=candidates.own_log_inclusion,
            hard_beta=self.hard_beta,
        )


def objective_of(config: ObjectiveConfig, *, temperature: float, hard_beta: float = 0.0) -> Objective:
    """Return the objective that a section asks for."""
    match config:
        case LabelAwareConfig():
            scoring: Scoring = partial(label_aware_scores, power=config.power, form=config.form)
        case HardConfig():
            scoring = hard_scores
        case BestConfig():
            return BestObjective(temperature, hard_beta)
    return SoftmaxObjective(scoring, temperature, hard_beta)
