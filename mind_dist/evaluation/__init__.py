"""How good a model is, beside what.

users         a prepared dataset → histories and what followed
recommenders  the model, and the baselines it has to beat: popularity, transitions
metrics       ranked items and targets → numbers
interest_use  how different a model's interests are, and what each is good for
protocol      all of it → a report by recommender
"""

from mind_dist.evaluation.interest_use import interest_use
from mind_dist.evaluation.protocol import (
    CUTOFFS,
    EvaluationReport,
    Report,
    evaluate_version,
    measure,
)
from mind_dist.evaluation.recommenders import ExactRecommender, Recommender, of_model, popularity, transitions
from mind_dist.evaluation.users import HeldOut, held_out

__all__ = [
    "CUTOFFS",
    "EvaluationReport",
    "ExactRecommender",
    "HeldOut",
    "Recommender",
    "Report",
    "evaluate_version",
    "held_out",
    "interest_use",
    "measure",
    "of_model",
    "popularity",
    "transitions",
]
