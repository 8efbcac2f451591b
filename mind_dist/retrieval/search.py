"""Users' interests → candidates: one search for all interests of a user, and for all users that ask alike."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, get_args

import numpy as np

from mind_dist.errors import InvalidRequest
from mind_dist.index.filters import conditions
from mind_dist.index.vector_store import MAX_LIMIT, Filter, Hits, Vectors, VectorStore
from mind_dist.records import Candidate
from mind_dist.retrieval.availability import available_at, has_availability
from mind_dist.retrieval.diversity import aggregate
from mind_dist.retrieval.merging import Merging, merge, merge_by_budget, merge_in_turn, split_limit

POOL_FACTOR = 4
"""To diversify, each interest is asked for so many times the limit: what to choose from must differ to begin with."""

_SHALLOW = 1000
"""Searches of up to about so many items share a call, whatever their depth; deeper ones those of about the same."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one user wants.

    Attributes:
        interests: A user's interests [k, D], without padding.
        limit: Most candidates.
        weights: Share of the behaviors behind each interest, [k]; None for equal ones. `max` does not look at them.
        merging: `max` is `merge`, `budget` is `merge_by_budget` with `split_limit`, `round_robin` is `merge_in_turn`.
        exclude: Item keys to leave out, such as those seen.
        filter: What the items' columns must hold.
        available_only: Leave out items that are not available, where the version has `available_from` and
            `available_until`.
        at_ms: The moment at which they must be, in milliseconds; None for now.
        diversity_weight: Above 0, choose by `aggregate` from what all interests found, `POOL_FACTOR` · limit each.
        category_column: The column that tells items apart then; one value or several an item.
    """

    interests: Vectors
    limit: int
    weights: Sequence[float] | None = None
    merging: Merging = "max"
    exclude: Collection[int] = ()
    filter: Filter | None = None
    available_only: bool = True
    at_ms: int | None = None
    diversity_weight: float = 0.0
    category_column: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """How the index is asked for what one user wants, and what is made of its answer."""

    wanted: Wanted
    weights: Sequence[float]
    left_out: frozenset[int]
    filter: Filter | None
    columns: tuple[str, ...]
    depth: int

    def candidates(self, hits: Sequence[Hits]) -> list[Candidate]:
        """Return candidates from what each interest found."""
        limit = self.wanted.limit
        match self.wanted.merging:
            case "budget":
                return merge_by_budget(hits, split_limit(limit, self.weights), exclude=self.left_out)
            case "round_robin":
                return merge_in_turn(hits, limit, self.weights, exclude=self.left_out)
            case "max" if self.columns:
                return _diversified(hits, limit, self.wanted.diversity_weight, self.columns[0], self.left_out)
            case "max":
                return merge(hits, limit, exclude=self.left_out)

    def asks_like(self) -> tuple[str, tuple[str, ...], int]:
        """Return what searches must share to be one call: filter, columns, and about the depth."""
        return repr(self.filter), self.columns, max(self.depth, _SHALLOW).bit_length()


class Settings(TypedDict, total=False):
    """The other attributes of `Wanted`, for `retrieve`."""

    weights: Sequence[float] | None
    merging: Merging
    exclude: Collection[int]
    filter: Filter | None
    available_only: bool
    at_ms: int | None
    diversity_weight: float
    category_column: str | None


def retrieve(
    store: VectorStore, model_version: str, interests: Vectors, limit: int, **settings: Unpack[Settings]
) -> list[Candidate]:
    """Return the items closest to a user's interests.

    On an exact index this is exact for every way of merging. Each interest is asked for `limit` items more than are
    excluded: whatever stands before an item it gives is excluded, or is itself among the `limit` candidates.

    Args:
        store: The index.
        model_version: The version that made the interests.
        interests: A user's interests [k, D], without padding.
        limit: Most candidates.
        **settings: The other attributes of `Wanted`.

    Raises:
        InvalidRequest: An argument is out of range, or the version does not have a column.
    """
    search = prepared(store, model_version, Wanted(interests, limit, **settings))
    return search_together(store, model_version, [search])[0]


def prepared(store: VectorStore, model_version: str, wanted: Wanted, now_ms: int | None = None) -> Search:
    """Return how the index is to be asked.

    Args:
        store: The index.
        model_version: The version that made the interests.
        wanted: What a user wants.
        now_ms: The present moment, for several searches that are to be one call; None for the clock's.

    Raises:
        InvalidRequest: Something is out of range, or the version does not have a column.
    """
    left_out = frozenset(wanted.exclude)
    num_interests = len(wanted.interests)
    weights = [1.0] * num_interests if wanted.weights is None else [float(weight) for weight in wanted.weights]
    _check_limit(wanted.limit, len(left_out))
    _check_weights(weights, num_interests)
    check_merging(wanted.merging, wanted.diversity_weight)
    if wanted.diversity_weight > 0 and not wanted.category_column:
        raise InvalidRequest("diversity_weight needs a category column")
    info, agrees = store.version_info(model_version), wanted.filter
    if wanted.available_only and has_availability(info):
        present_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        agrees = available_at(present_ms if wanted.at_ms is None else wanted.at_ms, agrees)
    conditions(info, agrees)  # refused here, for itself, and not in a call for many
    columns = (wanted.category_column,) if wanted.diversity_weight > 0 and wanted.category_column else ()
    depth = (POOL_FACTOR if columns else 1) * wanted.limit + len(left_out)
    return Search(wanted, weights, left_out, agrees, columns, min(depth, MAX_LIMIT))


def search_together(store: VectorStore, model_version: str, searches: Sequence[Search]) -> list[list[Candidate]]:
    """Return the candidates of each search; those that ask alike are one call of the index.

    Each gets what it would get alone: from a deeper list it sees its own depth.
    """
    alike: dict[object, list[int]] = {}
    for at, search in enumerate(searches):
        alike.setdefault(search.asks_like() if len(searches) > 1 else None, []).append(at)
    found: list[list[Candidate]] = [[] for _ in searches]
    for group in alike.values():
        members = [searches[at] for at in group if len(searches[at].wanted.interests)]
        hits = iter(_searched(store, model_version, members) if members else [])
        for at in group:
            own = [_first(next(hits), searches[at].depth) for _ in range(len(searches[at].wanted.interests))]
            found[at] = searches[at].candidates(own) if own else []
    return found


def _searched(store: VectorStore, model_version: str, searches: Sequence[Search]) -> Sequence[Hits]:
    queries = np.concatenate([search.wanted.interests for search in searches])
    depth = max(search.depth for search in searches)
    return store.search_items(
        model_version, queries, depth, filter=searches[0].filter, columns=list(searches[0].columns)
    )


def _first(hits: Hits, depth: int) -> Hits:
    if len(hits.keys) <= depth:
        return hits
    columns = {name: values[:depth] for name, values in hits.columns.items()}
    return Hits(hits.keys[:depth], hits.scores[:depth], columns)


def _diversified(
    hits: Sequence[Hits], limit: int, diversity_weight: float, category_column: str, exclude: Collection[int]
) -> list[Candidate]:
    category_of: dict[int, Any] = {}
    for found in hits:
        category_of.update(zip(found.keys.tolist(), found.columns[category_column], strict=True))
    pool = merge(hits, exclude=exclude)
    return aggregate(pool, [_several(category_of[each.item_key]) for each in pool], limit, diversity_weight)


def _several(value: Any) -> Iterable[Any]:
    """Return an item's categories: the values of a list, or the one value there is, if any."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def check_merging(merging: str, diversity_weight: float) -> None:
    """Check how candidates are to be chosen.

    Raises:
        InvalidRequest: The way of merging is unknown, the weight is out of range, or they do not go together:
            diversity chooses from the pool of best scores, which a budget or a turn would undo.
    """
    if merging not in get_args(Merging):
        raise InvalidRequest(f"merging {merging!r} must be one of {', '.join(get_args(Merging))}")
    if not (math.isfinite(diversity_weight) and diversity_weight >= 0):
        raise InvalidRequest(f"diversity_weight {diversity_weight} must be a finite number, 0 or more")
    if diversity_weight > 0 and merging != "max":
        raise InvalidRequest(f"diversity_weight goes with merging max, not with {merging}")


def _check_limit(limit: int, num_excluded: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit {limit} must be between 1 and {MAX_LIMIT}")
    if limit + num_excluded > MAX_LIMIT:
        raise InvalidRequest(f"limit {limit} and {num_excluded} excluded items are together above {MAX_LIMIT}")


def _check_weights(weights: Sequence[float], num_interests: int) -> None:
    if len(weights) != num_interests:
        raise InvalidRequest(f"{len(weights)} weights for {num_interests} interests")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise InvalidRequest(f"weights {weights} must be finite numbers, 0 or more")
