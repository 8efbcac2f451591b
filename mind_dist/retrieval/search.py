"""One search for all of a user's interests → candidates."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

from mind_dist.errors import InvalidRequest
from mind_dist.index.vector_store import MAX_LIMIT, Filter, Hits, Vectors, VectorStore
from mind_dist.records import Candidate
from mind_dist.retrieval.availability import available_at, has_availability
from mind_dist.retrieval.diversity import aggregate
from mind_dist.retrieval.merging import Merging, merge, merge_by_budget, merge_in_turn, split_limit

POOL_FACTOR = 4
"""To diversify, each interest is asked for so many times the limit: what to choose from must differ to begin with."""


def retrieve(
    store: VectorStore,
    model_version: str,
    interests: Vectors,
    limit: int,
    *,
    weights: Sequence[float] | None = None,
    merging: Merging = "max",
    exclude: Collection[int] = (),
    filter: Filter | None = None,
    available_only: bool = True,
    at_ms: int | None = None,
    diversity_weight: float = 0.0,
    category_column: str | None = None,
) -> list[Candidate]:
    """Return the items closest to a user's interests.

    On an exact index this is exact for every way of merging. Each interest is asked for `limit` items more than are
    excluded: whatever stands before an item it gives is excluded, or is itself among the `limit` candidates.

    Args:
        store: The index.
        model_version: The version that made the interests.
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

    Raises:
        InvalidRequest: An argument is out of range, or the version does not have a column.
    """
    left_out = frozenset(exclude)
    shares = [1.0] * len(interests) if weights is None else [float(weight) for weight in weights]
    _check_limit(limit, len(left_out))
    _check_weights(shares, len(interests))
    check_merging(merging, diversity_weight)
    if diversity_weight > 0 and not category_column:
        raise InvalidRequest("diversity_weight needs a category column")
    if not len(interests):
        return []
    wanted = filter
    if available_only and has_availability(store.version_info(model_version)):
        wanted = available_at(time.time_ns() // 1_000_000 if at_ms is None else at_ms, filter)
    columns = [category_column] if diversity_weight > 0 and category_column else []
    depth = (POOL_FACTOR if columns else 1) * limit + len(left_out)
    hits = store.search_items(model_version, interests, min(depth, MAX_LIMIT), filter=wanted, columns=columns)
    match merging:
        case "budget":
            return merge_by_budget(hits, split_limit(limit, shares), exclude=left_out)
        case "round_robin":
            return merge_in_turn(hits, limit, shares, exclude=left_out)
        case "max" if columns:
            return _diversified(hits, limit, diversity_weight, columns[0], left_out)
        case "max":
            return merge(hits, limit, exclude=left_out)


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
