"""Outcomes → what is one setting of a recipe, over its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell, Outcome
from mind_dist.recipes import RECIPES

Outcomes = Mapping[Cell, Outcome]


class Variant(NamedTuple):
    """What cells of different seeds have in common.

    Attributes:
        recipe: Name of a recipe or floor.
        k: Number of interests K.
        dim: Width D in place of the recipe's own; 0 for its own.
    """

    recipe: str
    k: int = 1
    dim: int = 0

    @classmethod
    def of(cls, cell: Cell) -> Variant:
        """Return the variant that a cell is of."""
        return cls(cell.recipe, cell.k, cell.dim)

    @property
    def width(self) -> int:
        """D as the model has it; 0 where there is no model."""
        return self.dim or self._own_dim

    @property
    def label(self) -> str:
        """The recipe, with D where it is not its own.

        >>> Variant("best", 4, 16).label, Variant("best", 4).label
        ('best D=16', 'best')
        """
        return self.recipe if self.width == self._own_dim else f"{self.recipe} D={self.dim}"

    @property
    def _own_dim(self) -> int:
        return RECIPES[self.recipe]().model.dim if self.recipe in RECIPES else 0


def by_variant(outcomes: Outcomes, dataset: str) -> dict[Variant, list[Outcome]]:
    """Return a dataset's outcomes, those of a variant together."""
    grouped: dict[Variant, list[Outcome]] = defaultdict(list)
    for cell, outcome in outcomes.items():
        if cell.dataset == dataset:
            grouped[Variant.of(cell)].append(outcome)
    return grouped


def mean_per_user(outcomes: Sequence[Outcome], history: str, metric: str) -> NDArray[np.float64]:
    """Return each user's mean over seeds, in the order of user keys, so that pairs are of one user."""
    ordered = [outcome.per_user[history][metric][np.argsort(outcome.users)] for outcome in outcomes]
    return np.asarray(np.mean(ordered, axis=0))
