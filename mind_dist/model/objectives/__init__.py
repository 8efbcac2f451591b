"""What interests are trained for: a module for each way to score, each correction, and the penalties.

    interests × targets, pool → scores (label_aware | hard | best) → softmax, corrected by (inclusion, hard_negatives)

Another objective is another module and another section of the config (`mind_dist.config.objective`): one that mixes
interests after their softmaxes, say, is an `Objective` of its own beside `SoftmaxObjective`.
"""

from mind_dist.model.objectives.objective import Candidates, Objective, objective_of

__all__ = ["Candidates", "Objective", "objective_of"]
