"""Interests × index → candidates: one search for all of a user's interests, merged by item, diversified on request."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from mind_dist.errors import InvalidRequest
from mind_dist.index.vector_store import MAX_LIMIT, Filter, Hits, Vectors, VectorStore
from mind_dist.records import Candidate

POOL_FACTOR = 4
"""To diversify, each interest is asked for so many times the limit: what to choose from must differ to begin with."""


def merge(hits: Sequence[Hits], limit: int | None = None, *, exclude: Collection[int] = ()) -> list[Candidate]:
    """Return each item once, with its best score and the interest that gave it, best first.

    Items of equal score come in ascending order of their keys, equal scores of an item go to its first interest.

    Args:
        hits: What each interest found.
        limit: Most candidates; None for all.
        exclude: Item keys left out.

    >>> found = [Hits(np.array([1, 2]), np.array([0.5, 0.25])), Hits(np.array([2, 3]), np.array([1.0, 0.5]))]
    >>> [(candidate.item_key, candidate.score, candidate.interest) for candidate in merge(found)]
    [(2, 1.0, 1), (1, 0.5, 0), (3, 0.5, 1)]
    """
    if not hits:
        return []
    keys = np.concatenate([found.keys for found in hits])
    scores = np.concatenate([found.scores for found in hits])
    interests = np.repeat(np.arange(len(hits)), [len(found.keys) for found in hits])
    ranking = np.lexsort((interests, keys, -scores))
    _, first = np.unique(keys[ranking], return_index=True)
    best = ranking[np.sort(first)]
    kept = best[~np.isin(keys[best], list(exclude))][:limit]
    columns = (keys[kept].tolist(), scores[kept].tolist(), interests[kept].tolist())
    return [Candidate(*values) for values in zip(*columns, strict=True)]


def aggregate(
    candidates: Sequence[Candidate], categories: Sequence[Iterable[Any]], limit: int, diversity_weight: float
) -> list[Candidate]:
    """Choose candidates for score and diversity, greedily (ComiRec, arXiv 2005.09347, Algorithm 1).

    The next chosen is the one with the largest score + diversity_weight · Σ g over those chosen before, where
    g = 1 for two items without a common category; the first of equals. An item of no category is unlike all others.

    Args:
        candidates: What to choose from, best first.
        categories: The categories of each.
        limit: How many to choose at most.
        diversity_weight: λ of the paper; 0 leaves the order as it is.

    >>> pool = [Candidate(1, 0.9, 0), Candidate(2, 0.8, 0), Candidate(3, 0.7, 1)]
    >>> [chosen.item_key for chosen in aggregate(pool, [["war"], ["war"], ["comedy"]], 2, diversity_weight=0.2)]
    [1, 3]
    """
    memberships = _memberships(categories)
    value = np.array([candidate.score for candidate in candidates], dtype=np.float64)
    chosen: list[Candidate] = []
    for _ in range(min(limit, len(candidates))):
        best = int(np.argmax(value))
        chosen.append(candidates[best])
        alike = (memberships & memberships[best]).any(axis=1)
        value += diversity_weight * ~alike
        value[best] = -np.inf
    return chosen


def _memberships(categories: Sequence[Iterable[Any]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which candidate is in which category, [candidates, categories]."""
    columns: dict[Any, int] = {}
    for names in categories:
        for name in names:
            columns.setdefault(name, len(columns))
    memberships = np.zeros((len(categories), len(columns)), dtype=np.bool_)
    for row, names in zip(memberships, categories, strict=True):
        row[[columns[name] for name in names]] = True
    return memberships


def retrieve(
    store: VectorStore,
    model_version: str,
    interests: Vectors,
    limit: int,
    *,
    exclude: Collection[int] = (),
    filter: Filter | None = None,
    diversity_weight: float = 0.0,
    category_column: str | None = None,
) -> list[Candidate]:
    """Return the items closest to any of a user's interests, best first.

    On an exact index this is exact. Each interest is asked for `limit` items more than are excluded: whatever
    stands before one of the best `limit` in its interest's list is excluded, or one of the best itself.

    Args:
        store: The index.
        model_version: The version that made the interests.
        interests: A user's interests [k, D], without padding.
        limit: Most candidates.
        exclude: Item keys to leave out, such as those seen.
        filter: What the items' columns must hold.
        diversity_weight: Above 0, choose by `aggregate` from what all interests found, `POOL_FACTOR` · limit each.
        category_column: The column that tells items apart then; one value or several an item.

    Raises:
        InvalidRequest: An argument is out of range, or the version does not have a column.
    """
    left_out = frozenset(exclude)
    _check(limit, len(left_out), diversity_weight, category_column)
    if not len(interests):
        return []
    columns = [category_column] if diversity_weight > 0 and category_column else []
    depth = (POOL_FACTOR if columns else 1) * limit + len(left_out)
    hits = store.search_items(model_version, interests, min(depth, MAX_LIMIT), filter=filter, columns=columns)
    if not columns:
        return merge(hits, limit, exclude=left_out)
    category_of: dict[int, Any] = {}
    for found in hits:
        category_of.update(zip(found.keys.tolist(), found.columns[columns[0]], strict=True))
    pool = merge(hits, exclude=left_out)
    return aggregate(pool, [_several(category_of[each.item_key]) for each in pool], limit, diversity_weight)


def _several(value: Any) -> Iterable[Any]:
    """Return an item's categories: the values of a list, or the one value there is."""
    return value if isinstance(value, list | tuple) else (value,)


def _check(limit: int, num_excluded: int, diversity_weight: float, category_column: str | None) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit {limit} must be between 1 and {MAX_LIMIT}")
    if limit + num_excluded > MAX_LIMIT:
        raise InvalidRequest(f"limit {limit} and {num_excluded} excluded items are together above {MAX_LIMIT}")
    if not (math.isfinite(diversity_weight) and diversity_weight >= 0):
        raise InvalidRequest(f"diversity_weight {diversity_weight} must be a finite number, 0 or more")
    if diversity_weight > 0 and not category_column:
        raise InvalidRequest("diversity_weight needs a category column")
