"""Outcomes → what is one setting of a recipe, over its seeds and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell, Outcome
from mind_dist.recipes import RECIPES

Outcomes = Mapping[Cell, Outcome]

Values = NDArray[np.float64]
"""A metric of each user; NaN where it is not defined for one."""


class Variant(NamedTuple):
    """What cells of different seeds and splits have in common.

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


def paired_per_user(
    first: Sequence[Outcome], second: Sequence[Outcome], history: str, metric: str
) -> tuple[Values, Values]:
    """Return a metric of two variants, [n] each, pair by pair of one user: means over the seeds of a split.

    Users are those of the splits that both were measured on, one split's after the other's and in the order of their
    keys; who is a test user of two splits counts in both.
    """
    found = [_by_users(outcomes, history, metric) for outcomes in (first, second)]
    common = sorted(found[0].keys() & found[1].keys())
    values, others = (np.concatenate([np.empty(0), *(each[users] for users in common)]) for each in found)
    return values, others


def _by_users(outcomes: Sequence[Outcome], history: str, metric: str) -> dict[tuple[int, ...], Values]:
    """Return the mean over seeds of each user, by the users of a split, in the order of their keys."""
    seeds: dict[tuple[int, ...], list[Values]] = defaultdict(list)
    for outcome in outcomes:
        order = np.argsort(outcome.users)
        seeds[tuple(sorted(outcome.users))].append(outcome.per_user[history][metric][order])
    return {users: np.mean(values, axis=0) for users, values in seeds.items()}
