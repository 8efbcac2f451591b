"""What interests are trained for: a module for each way to score, each correction, and the penalties.

    interests × targets, pool → scores (label_aware | hard) → softmax, corrected by (inclusion, hard_negatives)
    interests × targets, pool → scores and softmax in one pass (best), corrected likewise

Another objective is another module and another section of the config (`mind_dist.config.objective`): one that mixes
interests after their softmaxes, say, is an `Objective` of its own beside `SoftmaxObjective` and `BestObjective`.
"""

from mind_dist.model.objectives.candidates import Candidates
from mind_dist.model.objectives.objective import Objective, objective_of

__all__ = ["Candidates", "Objective", "objective_of"]
