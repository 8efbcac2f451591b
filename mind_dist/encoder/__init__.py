"""BehaviorSequence → interests, with one loaded model version: what evaluation, publishing and serving share.

The same history gives the same vectors to the last bit, whatever else is in the batch: `shapes` says how. `histories`
makes the model's inputs of sequences, `vectors` looks vectors up by key. `items` makes the vectors of items; `node_cache`
keeps them in files that all processes of a node map, and makes these of a version that `reading` reads in parts.
"""

from mind_dist.encoder.encoder import InterestEncoder, UserInterests, Vectors
from mind_dist.encoder.shapes import BASE_USERS

__all__ = ["BASE_USERS", "InterestEncoder", "UserInterests", "Vectors"]
