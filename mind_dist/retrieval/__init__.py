"""Interests × index → candidates.

search        one search for all of a user's interests, and for users that ask alike, and what to make of it
availability  a filter → the same among the items that are available at a moment
merging       what each interest found → each item once: the best scores, a budget for each interest, or in turn
diversity     candidates → fewer, of more categories
"""

from mind_dist.retrieval.availability import available_at, has_availability
from mind_dist.retrieval.diversity import aggregate
from mind_dist.retrieval.merging import Merging, merge, merge_by_budget, merge_in_turn, split_limit
from mind_dist.retrieval.search import POOL_FACTOR, Search, Wanted, check_merging, prepared, retrieve, search_together

__all__ = [
    "POOL_FACTOR",
    "Merging",
    "Search",
    "Wanted",
    "aggregate",
    "available_at",
    "check_merging",
    "has_availability",
    "merge",
    "merge_by_budget",
    "merge_in_turn",
    "prepared",
    "retrieve",
    "search_together",
    "split_limit",
]
