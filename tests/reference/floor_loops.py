"""Slow, obvious twins of the benchmarks' floors: plain loops over lists and dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

Weights = Mapping[tuple[int, int], float]
"""(Item that was, item that may come) → weight; 0 where there is none."""


def item_knn(
    train: Sequence[Sequence[int]], window: int, lag_power: float, source_power: float, target_power: float
) -> Weights:
    events = Counter(item for sequence in train for item in sequence)
    weights: Counter[tuple[int, int]] = Counter()
    for sequence in train:
        for place, before in enumerate(sequence):
            for lag in range(1, window + 1):
                if place + lag < len(sequence):
                    after = sequence[place + lag]
                    weight = 1 / lag**lag_power / events[before] ** source_power / events[after] ** target_power
                    weights[before, after] += weight
    return weights


def ease(train: Sequence[Sequence[int]], items: Sequence[int], penalty: float) -> Weights:
    """Solve each item's ridge regression on all the others by itself, which is what EASE's closed form does at once."""
    has = np.array([[float(item in sequence) for item in items] for sequence in train])
    weights = {}
    for column, target in enumerate(items):
        others = [place for place in range(len(items)) if place != column]
        inputs = has[:, others]
        regular = inputs.T @ inputs + penalty * np.eye(len(others))
        solution = np.linalg.solve(regular, inputs.T @ has[:, column])
        for place, weight in zip(others, solution.tolist(), strict=True):
            weights[items[place], target] = weight
    return weights


def scores(weights: Weights, items: Sequence[int], history: Sequence[int], last: int, decay: float) -> list[float]:
    found = []
    for item in items:
        score = 0.0
        for age, behavior in enumerate(reversed(history[-last:])):
            score += decay**age * weights.get((behavior, item), 0.0)
        found.append(score)
    return found
