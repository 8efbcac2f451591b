"""Interests and what they are to find → the loss: the objective that a config asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mind_dist.config import BestConfig, HardConfig, LabelAwareConfig, ObjectiveConfig
from mind_dist.model.interests import Interests
from mind_dist.model.objectives.best import best_interest_scores
from mind_dist.model.objectives.hard import hard_scores
from mind_dist.model.objectives.label_aware import label_aware_scores
from mind_dist.model.objectives.scores import Scoring
from mind_dist.model.objectives.softmax import sampled_softmax_loss


class Candidates(NamedTuple):
    """What the interests of N ends are to find, and what they are to tell it from.

    Attributes:
        targets: Item vectors, as scored, [N, T, D].
        target_mask: True where real, [N, T].
        pool: Vectors of distinct items, the negatives, [P, D].
        targets_in_pool: Each target's place in the pool, -1 where it is not in it, [N, T].
        log_inclusion: Log of how likely each item was to be in the pool, [N, P], or [1, P] for all ends.
        own_log_inclusion: The same of the targets, where their scores are corrected, too, [N, T].
    """

    targets: Float[Tensor, "N T D"]
    target_mask: Bool[Tensor, "N T"]
    pool: Float[Tensor, "P D"]
    targets_in_pool: Int64[Tensor, "N T"]
    log_inclusion: Float[Tensor, "#N P"]
    own_log_inclusion: Float[Tensor, "N T"] | None = None


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
            scoring = best_interest_scores
    return SoftmaxObjective(scoring, temperature, hard_beta)
