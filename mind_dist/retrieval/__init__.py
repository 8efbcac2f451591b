"""Interests × index → candidates.

search        one search for all of a user's interests, and what to make of it
availability  a filter → the same among the items that are available at a moment
merging       what each interest found → each item once: the best scores, a budget for each interest, or in turn
diversity     candidates → fewer, of more categories
"""

from mind_dist.retrieval.availability import available_at, has_availability
from mind_dist.retrieval.diversity import aggregate
from mind_dist.retrieval.merging import Merging, merge, merge_by_budget, merge_in_turn, split_limit
from mind_dist.retrieval.search import POOL_FACTOR, check_merging, retrieve

__all__ = [
    "POOL_FACTOR",
    "Merging",
    "aggregate",
    "available_at",
    "check_merging",
    "has_availability",
    "merge",
    "merge_by_budget",
    "merge_in_turn",
    "retrieve",
    "split_limit",
]
