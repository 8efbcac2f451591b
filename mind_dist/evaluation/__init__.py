"""How good a model is, beside what.

users         a prepared dataset → histories and what followed
availability  a prepared dataset → which items could be recommended at a moment
task          both: whom to evaluate, and among which items
recommenders  the model, and popularity
floors        what else it has to beat, tuned on valid users: recent popularity, ItemKNN, EASE and others
chance        items drawn at random
categories    a column of the catalog → what diversity is taken over
metrics       ranked items and targets → numbers
measuring     a recommender and users → all metrics
interest_use  how different a model's interests are, and what each is good for
opponents     the floors, tuned within a time
significance  metrics of the same users under two recommenders → is the difference chance?
verdict       a model beside its opponents → is it worth deploying?
protocol      all of it → a report by recommender
"""

from mind_dist.evaluation.availability import Availability, Moments
from mind_dist.evaluation.chance import chance
from mind_dist.evaluation.floors.transitions import transitions
from mind_dist.evaluation.interest_use import interest_use
from mind_dist.evaluation.measuring import CUTOFFS, Measured, measure, measured
from mind_dist.evaluation.protocol import EvaluationReport, Report, evaluate_version
from mind_dist.evaluation.recommenders import ExactRecommender, Recommender, of_model, popularity
from mind_dist.evaluation.task import Task, task_of
from mind_dist.evaluation.users import Cut, HeldOut, held_out, in_context

__all__ = [
    "CUTOFFS",
    "Availability",
    "Cut",
    "EvaluationReport",
    "ExactRecommender",
    "HeldOut",
    "Measured",
    "Moments",
    "Recommender",
    "Report",
    "Task",
    "chance",
    "evaluate_version",
    "held_out",
    "in_context",
    "interest_use",
    "measure",
    "measured",
    "of_model",
    "popularity",
    "task_of",
    "transitions",
]
