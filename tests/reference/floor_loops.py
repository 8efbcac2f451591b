"""Slow, obvious twins of the floors: plain loops over lists and dicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

Weights = Mapping[tuple[int, int], float]
"""(Item that was, item that may come) → weight; 0 where there is none."""


def forward_counts(train: Sequence[Sequence[int]], window: int, lag_power: float) -> Weights:
    counts: Counter[tuple[int, int]] = Counter()
    for sequence in train:
        for place, before in enumerate(sequence):
            for lag in range(1, window + 1):
                if place + lag < len(sequence):
                    counts[before, sequence[place + lag]] += 1 / lag**lag_power
    return counts


def item_knn(
    train: Sequence[Sequence[int]],
    window: int,
    lag_power: float,
    *,
    backward: float,
    source_power: float,
    target_power: float,
) -> Weights:
    events = Counter(item for sequence in train for item in sequence)
    counts = forward_counts(train, window, lag_power)
    weights: dict[tuple[int, int], float] = {}
    for first, second in counts:
        for source, target in ((first, second), (second, first)):
            together = counts.get((source, target), 0) + backward * counts.get((target, source), 0)
            weights[source, target] = together / events[source] ** source_power / events[target] ** target_power
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


def rings(train: Sequence[Sequence[int]], source: int, depth: int) -> list[set[int]]:
    followers: dict[int, set[int]] = {}
    for sequence in train:
        for before, after in pairwise(sequence):
            followers.setdefault(before, set()).add(after)
    nearer, ring, found = {source}, {source}, []
    for _ in range(depth):
        ring = {after for item in ring for after in followers.get(item, set())} - nearer
        nearer |= ring
        found.append(ring)
    return found


def ring_list(
    train: Sequence[Sequence[int]],
    features: Mapping[int, set[str]],
    history: Sequence[int],
    *,
    shares: Sequence[Sequence[int]],
    edge_weight: float,
    anchor: int,
) -> list[int]:
    """Return TGH's list of what its rings hold: `shares` of each ten places for each ring, in turn."""
    items = list(features)
    having = Counter(name for names in features.values() for name in names)
    events = Counter(item for sequence in train for item in sequence)
    edges = Counter(pair for s in train for pair in pairwise(s))
    rarity = {name: math.log(len(items) / count) for name, count in having.items()}

    def vector(item: int) -> dict[str, float]:
        length = math.sqrt(sum(rarity[name] ** 2 for name in features[item])) or 1.0
        return {name: rarity[name] / length for name in features[item]}

    middle: Counter[str] = Counter()
    for item in history[-anchor:]:
        middle.update(vector(item))
    length = math.sqrt(sum(value**2 for value in middle.values())) or 1.0

    def value(source: int, item: int, depth: int) -> float:
        alike = sum(weight * middle[name] for name, weight in vector(item).items()) / length
        if depth:
            return alike
        largest = max(math.log1p(count) for (before, _), count in edges.items() if before == source)
        return alike + edge_weight * math.log1p(edges[source, item]) / largest

    queues = []
    for source, of_source in zip(reversed(history), shares, strict=False):
        for depth, (ring, share) in enumerate(zip(rings(train, source, len(of_source)), of_source, strict=True)):
            key = {item: (-round(value(source, item, depth), 5), -events[item], item) for item in ring}
            queues.append((sorted(ring, key=key.__getitem__), share))
    found: list[int] = []
    while any(queue for queue, _ in queues):
        block = [item for queue, share in queues for item in queue[:share]]
        queues = [(queue[share:], share) for queue, share in queues]
        found += [item for place, item in enumerate(block) if item not in found and item not in block[:place]]
    return found
