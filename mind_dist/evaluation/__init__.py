"""How good a model is, beside what.

protocol      a prepared dataset → histories and what followed → metrics by recommender
recommenders  the model, and the baselines it has to beat: popularity, transitions
metrics       ranked items and targets → numbers
"""

from mind_dist.evaluation.protocol import (
    CUTOFFS,
    EvaluationReport,
    HeldOut,
    Report,
    evaluate_version,
    held_out,
    measure,
)
from mind_dist.evaluation.recommenders import ExactRecommender, Recommender, of_model, popularity, transitions

__all__ = [
    "CUTOFFS",
    "EvaluationReport",
    "ExactRecommender",
    "HeldOut",
    "Recommender",
    "Report",
    "evaluate_version",
    "held_out",
    "measure",
    "of_model",
    "popularity",
    "transitions",
]
