"""Slow, obvious twins of the evaluation's metrics and baselines: plain loops over lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def recall(ranked: Sequence[int], targets: Sequence[int]) -> float:
    found = 0
    for item in set(targets):
        if item in ranked:
            found += 1
    return found / len(targets)


def hit_rate(ranked: Sequence[int], targets: Sequence[int]) -> float:
    for item in ranked:
        if item in targets:
            return 1.0
    return 0.0


def ndcg(ranked: Sequence[int], targets: Sequence[int], limit: int) -> float:
    gain = 0.0
    for place, item in enumerate(ranked[:limit], start=1):
        if item in targets:
            gain += 1 / math.log2(place + 1)
    best = 0.0
    for place in range(1, min(limit, len(set(targets))) + 1):
        best += 1 / math.log2(place + 1)
    return gain / best


def diversity(categories: Sequence[set[str]]) -> float:
    different = pairs = 0
    for place, first in enumerate(categories):
        for second in categories[place + 1 :]:
            pairs += 1
            different += not (first & second)
    return different / pairs


def category_coverage(ranked: Sequence[set[str]], targets: Sequence[set[str]]) -> float:
    wanted = {name for names in targets for name in names}
    covered = 0
    for name in wanted:
        covered += any(name in names for names in ranked)
    return covered / len(wanted)


def interest_shares(scores: Sequence[Sequence[float]], limit: int) -> list[float]:
    """Return the share of the best items that each interest wins; `scores` are of each interest for each item."""
    best = [max(of_item) for of_item in zip(*scores, strict=True)]
    top = sorted(range(len(best)), key=lambda item: -best[item])[:limit]
    won = [0] * len(scores)
    for item in top:
        of_item = [of_interest[item] for of_interest in scores]
        won[of_item.index(max(of_item))] += 1
    return [count / len(top) for count in won]


def interest_hits(
    scores: Sequence[Sequence[float]], items: Sequence[int], targets: Sequence[int], limit: int
) -> list[int]:
    """Return how many targets among the best items each interest won."""
    best = [max(of_item) for of_item in zip(*scores, strict=True)]
    found = [0] * len(scores)
    for item in sorted(range(len(best)), key=lambda item: -best[item])[:limit]:
        of_item = [of_interest[item] for of_interest in scores]
        found[of_item.index(max(of_item))] += items[item] in targets
    return found


def single_recalls(
    scores: Sequence[Sequence[float]], items: Sequence[int], targets: Sequence[int], limit: int
) -> list[float]:
    """Return the recall of each interest alone."""
    recalls = []
    for of_interest in scores:
        places = sorted(range(len(items)), key=lambda place: -of_interest[place])[:limit]
        recalls.append(recall([items[place] for place in places], targets))
    return recalls


def cosine(vectors: Sequence[Sequence[float]]) -> float:
    cosines = []
    for place, first in enumerate(vectors):
        for second in vectors[place + 1 :]:
            product = sum(a * b for a, b in zip(first, second, strict=True))
            lengths = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
            cosines.append(product / lengths)
    return sum(cosines) / len(cosines)


def popular(train: Sequence[Sequence[int]], items: Sequence[int]) -> list[int]:
    """Return the items, most train events first, then smaller keys."""
    counts = Counter(item for sequence in train for item in sequence)
    return sorted(items, key=lambda item: (-counts[item], item))


def followers(train: Sequence[Sequence[int]], items: Sequence[int], history: Sequence[int]) -> list[int]:
    """Return the items, most often right after one of the last five of the history first, then by popularity."""
    scores: Counter[int] = Counter()
    for last in history[-5:]:
        for sequence in train:
            for before, after in pairwise(sequence):
                if before == last:
                    scores[after] += 1
    by_popularity = popular(train, items)
    return sorted(items, key=lambda item: (-scores[item], by_popularity.index(item)))
