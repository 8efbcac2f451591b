"""Recipes: named settings of model and training, each value with the paper or the measurement behind it.

`docs/quality.md` has what each of them reaches, beside what teams use today.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mind_dist.recipes.causal import best, news, stream
from mind_dist.recipes.multi_interest import comirec_dr, comirec_sa, mind, remi, two_tower
from mind_dist.recipes.papers import comirec_dr_paper, comirec_sa_paper, mind_paper, remi_paper
from mind_dist.recipes.recipe import Recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "best",
    "comirec_dr",
    "comirec_dr_paper",
    "comirec_sa",
    "comirec_sa_paper",
    "mind",
    "mind_paper",
    "news",
    "remi",
    "remi_paper",
    "stream",
    "two_tower",
]

_NAMED = (
    *(best, news, stream, two_tower, mind, comirec_dr, comirec_sa, remi),
    *(mind_paper, comirec_dr_paper, comirec_sa_paper, remi_paper),
)

RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType({each.__name__: each for each in _NAMED})
"""Name → recipe."""
