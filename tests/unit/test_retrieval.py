"""Retrieval against slow, obvious twins: every score of every item, a plain sort, a plain greedy loop."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.errors import InvalidRequest, VectorStoreError
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import MAX_LIMIT, Column, Hits, ItemRows, VersionInfo
from mind_dist.records import Candidate
from mind_dist.retrieval import (
    POOL_FACTOR,
    Merging,
    aggregate,
    merge,
    merge_by_budget,
    merge_in_turn,
    retrieve,
    split_limit,
)
from tests.reference import retrieval_loops

DIM, VERSION = 3, "v1"


def make_store(vectors: Any, genres: Sequence[str | None], moods: Sequence[Sequence[str]]) -> InMemoryVectorStore:
    """Return a store of items 10, 11, …"""
    store = InMemoryVectorStore()
    columns = (Column("genre", nullable=True), Column("moods", "texts"))
    store.create_version(VersionInfo(VERSION, DIM, 4, "inner_product", "", 10, columns=columns))
    keys = np.arange(10, 10 + len(vectors), dtype=np.int64)
    store.upsert_items(VERSION, ItemRows(keys, vectors, {"genre": genres, "moods": moods}))
    return store


def brute_force(vectors: Any, interests: Any, allowed: Sequence[bool]) -> list[Candidate]:
    """Return every allowed item with its best score, best first."""
    candidates = []
    for item in np.flatnonzero(allowed).tolist():
        scores = [float(vectors[item] @ interest) for interest in interests]
        candidates.append(Candidate(10 + item, max(scores), scores.index(max(scores))))
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.item_key))


weights = st.integers(0, 6).map(float)


FILTERS: list[dict[str, Any] | None] = [
    None,
    {"genre": ["war", "drama"]},
    {"moods": "dark", "genre": "comedy"},
    {"genre": {"gte": "d"}},
    {"genre": {"null": True}, "moods": {"not_in": ["dark"]}},
]


def fits(wanted: dict[str, Any], genre: str | None, moods: list[str]) -> bool:
    """Tell whether an item meets one of `FILTERS`."""
    match wanted:
        case {"genre": ["war", "drama"]}:
            return genre in ("war", "drama")
        case {"genre": "comedy"}:
            return genre == "comedy" and "dark" in moods
        case {"genre": {"gte": _}}:
            return genre in ("drama", "war")
        case {"genre": {"null": _}}:
            return genre is None and "dark" not in moods
    return not wanted


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small index and a request, in whole numbers: scores are exact, and often equal."""
    num_items, num_interests = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = st.integers(8, 12 + num_items)
    return {
        "vectors": rng.integers(-3, 4, (num_items, DIM)).astype(np.float32),
        "interests": rng.integers(-2, 3, (num_interests, DIM)).astype(np.float32),
        "weights": draw(st.none() | st.lists(weights, min_size=num_interests, max_size=num_interests)),
        "genres": [["war", "comedy", "drama", None][i] for i in rng.integers(0, 4, num_items)],
        "moods": [rng.choice(["dark", "light", "odd"], rng.integers(0, 3)).tolist() for _ in range(num_items)],
        "limit": draw(st.integers(1, 50)),
        "exclude": draw(st.sets(keys, max_size=30)),
        "filter": draw(st.sampled_from(FILTERS)),
        "diversity_weight": draw(st.sampled_from([0.0, 0.5, 3.0])),
        "category_column": draw(st.sampled_from(["genre", "moods"])),
    }


def allowed_items(request: dict[str, Any]) -> list[bool]:
    wanted = request["filter"] or {}
    allowed = []
    for item, (genre, moods) in enumerate(zip(request["genres"], request["moods"], strict=True)):
        allowed.append(fits(wanted, genre, moods) and 10 + item not in request["exclude"])
    return allowed


@given(requests())
@settings(max_examples=150, deadline=None)
def test_retrieve_equals_brute_force(request: dict[str, Any]) -> None:
    store = make_store(request["vectors"], request["genres"], request["moods"])
    ranking = brute_force(request["vectors"], request["interests"], allowed_items(request))
    arguments = {name: request[name] for name in ("exclude", "filter")}
    found = retrieve(store, VERSION, request["interests"], request["limit"], **arguments)
    assert found == ranking[: request["limit"]]


@given(requests())
@settings(max_examples=100, deadline=None)
def test_diversified_retrieval_is_the_greedy_choice_from_what_all_interests_found(request: dict[str, Any]) -> None:
    store = make_store(request["vectors"], request["genres"], request["moods"])
    several = (
        request["moods"]
        if request["category_column"] == "moods"
        else [[genre] * bool(genre) for genre in request["genres"]]
    )
    categories = {10 + item: set(names) for item, names in enumerate(several)}
    allowed = allowed_items(request)
    reach = (POOL_FACTOR if request["diversity_weight"] else 1) * request["limit"] + len(request["exclude"])
    unseen_too = allowed_items({**request, "exclude": set()})
    pools = [brute_force(request["vectors"], [interest], unseen_too)[:reach] for interest in request["interests"]]
    reached = {candidate.item_key for pool in pools for candidate in pool}
    ranking = brute_force(request["vectors"], request["interests"], allowed)
    pool = [candidate for candidate in ranking if candidate.item_key in reached]
    names = ("exclude", "filter", "diversity_weight", "category_column")
    arguments = {name: request[name] for name in names}
    found = retrieve(store, VERSION, request["interests"], request["limit"], **arguments)
    known = [categories[candidate.item_key] for candidate in pool]
    assert found == retrieval_loops.diversified(pool, known, request["limit"], request["diversity_weight"])


def all_pairs(request: dict[str, Any]) -> list[Candidate]:
    """Return every allowed item for every interest, with its score."""
    return [
        Candidate(10 + item, float(request["vectors"][item] @ interest), place)
        for item in np.flatnonzero(allowed_items(request)).tolist()
        for place, interest in enumerate(request["interests"])
    ]


@given(requests())
@settings(max_examples=150, deadline=None)
def test_retrieval_by_budget_equals_brute_force(request: dict[str, Any]) -> None:
    store = make_store(request["vectors"], request["genres"], request["moods"])
    arguments = {name: request[name] for name in ("exclude", "filter", "weights")}
    found = retrieve(store, VERSION, request["interests"], request["limit"], merging="budget", **arguments)
    budgets = retrieval_loops.budgets(request["limit"], request["weights"] or [1.0] * len(request["interests"]))
    assert found == retrieval_loops.by_budget(all_pairs(request), budgets)
    if sum(allowed_items(request)) >= request["limit"]:
        assert [sum(each.interest == place for each in found) for place in range(len(budgets))] == budgets


@given(requests())
@settings(max_examples=150, deadline=None)
def test_retrieval_in_turn_equals_brute_force(request: dict[str, Any]) -> None:
    store = make_store(request["vectors"], request["genres"], request["moods"])
    arguments = {name: request[name] for name in ("exclude", "filter", "weights")}
    found = retrieve(store, VERSION, request["interests"], request["limit"], merging="round_robin", **arguments)
    shares = request["weights"] or [1.0] * len(request["interests"])
    assert found == retrieval_loops.in_turn(all_pairs(request), request["limit"], shares)


@given(st.integers(1, 60), st.lists(weights | st.floats(0, 1, width=32), min_size=1, max_size=6))
def test_a_limit_is_split_as_its_loop_does_it(limit: int, shares: list[float]) -> None:
    budgets = split_limit(limit, shares)
    assert budgets == retrieval_loops.budgets(limit, shares)
    assert sum(budgets) == limit
    assert min(budgets) >= (limit >= len(shares))


@st.composite
def short_lists(draw: st.DrawFn) -> list[Hits]:
    """Draw what interests found, each list of its own length, as an approximate index may answer."""
    found = []
    for keys in draw(st.lists(st.sets(st.integers(0, 15)), min_size=1, max_size=4)):
        ranked = sorted(((float(draw(st.integers(0, 3))), key) for key in keys), key=lambda pair: (-pair[0], pair[1]))
        columns = np.array([key for _, key in ranked], np.int64), np.array([score for score, _ in ranked], np.float32)
        found.append(Hits(*columns))
    return found


@given(short_lists(), st.integers(1, 20), st.sets(st.integers(0, 15)), st.data())
@settings(deadline=None)
def test_places_an_interest_cannot_fill_go_to_the_others(
    hits: list[Hits], limit: int, exclude: set[int], data: st.DataObject
) -> None:
    shares = data.draw(st.lists(weights, min_size=len(hits), max_size=len(hits)))
    pairs = [
        Candidate(key, score, place)
        for place, found in enumerate(hits)
        for key, score in zip(found.keys.tolist(), found.scores.tolist(), strict=True)
    ]
    budgets = split_limit(limit, shares)
    by_budget = merge_by_budget(hits, budgets, exclude=exclude)
    assert by_budget == retrieval_loops.by_budget(pairs, budgets, exclude)
    turns = merge_in_turn(hits, limit, shares, exclude=exclude)
    assert turns == retrieval_loops.in_turn(pairs, limit, shares, exclude)
    num_items = len({pair.item_key for pair in pairs} - exclude)
    assert len(by_budget) == len(turns) == min(limit, num_items)


def test_budgets_and_turns_give_a_quiet_interest_its_share() -> None:
    vectors = np.array([[9, 1, 0], [8, 1, 0], [7, 1, 0], [0, 2, 0], [0, 3, 0]], dtype=np.float32)
    store = make_store(vectors, ["war"] * 5, [[]] * 5)
    interests = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)

    def keys(merging: Merging, weights: list[float] | None) -> list[int]:
        found = retrieve(store, VERSION, interests, 3, weights=weights, merging=merging)
        return [candidate.item_key for candidate in found]

    assert keys("max", [0.5, 0.5]) == [10, 11, 12]
    assert keys("budget", [0.6, 0.4]) == [10, 11, 14]
    assert keys("budget", [0.4, 0.6]) == [10, 14, 13]
    assert keys("round_robin", [0.4, 0.6]) == [14, 10, 13]
    assert keys("round_robin", None) == [10, 14, 11]


def test_a_higher_diversity_weight_brings_in_more_categories() -> None:
    vectors = np.array([[score, 0, 0] for score in (9, 8, 7, 6, 5, 4)], dtype=np.float32)
    store = make_store(vectors, ["war", "war", "war", "war", "comedy", "drama"], [[]] * 6)
    interests = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)

    def keys(weight: float) -> list[int]:
        found = retrieve(store, VERSION, interests, 3, diversity_weight=weight, category_column="genre")
        return [candidate.item_key for candidate in found]

    assert keys(0) == [10, 11, 12]
    assert keys(10) == [10, 14, 15]


def test_items_without_a_category_are_unlike_all_others() -> None:
    pool = [Candidate(key, 1.0 - key / 10, 0) for key in range(4)]
    chosen = aggregate(pool, [["a"], ["a"], [], []], 3, diversity_weight=1.0)
    assert [candidate.item_key for candidate in chosen] == [0, 2, 3]


@given(
    st.lists(st.tuples(st.integers(0, 8), st.frozensets(st.sampled_from("abcd"), max_size=3)), max_size=20),
    st.integers(1, 25),
    st.sampled_from([0.0, 0.5, 1.0, 4.0]),
)
def test_diversity_equals_choosing_one_by_one(
    drawn: list[tuple[int, frozenset[str]]], limit: int, weight: float
) -> None:
    drawn = sorted(drawn, key=lambda each: -each[0])
    pool = [Candidate(key, float(score), 0) for key, (score, _) in enumerate(drawn)]
    categories = [names for _, names in drawn]
    assert aggregate(pool, categories, limit, weight) == retrieval_loops.diversified(pool, categories, limit, weight)


def test_merging_nothing_gives_nothing() -> None:
    nothing = Hits(np.empty(0, np.int64), np.empty(0, np.float32))
    assert merge([]) == merge([nothing, nothing], 5) == aggregate([], [], 3, 1.0) == []
    assert merge_by_budget([], []) == merge_by_budget([nothing], [3]) == merge_in_turn([], 3, []) == []
    assert split_limit(3, []) == []


@pytest.fixture(scope="module")
def store() -> InMemoryVectorStore:
    return make_store(np.ones((4, DIM), np.float32), ["war"] * 4, [[]] * 4)


def test_a_user_without_interests_gets_nothing(store: InMemoryVectorStore) -> None:
    for merging in get_args(Merging):
        assert retrieve(store, VERSION, np.empty((0, DIM), np.float32), 5, weights=[], merging=merging) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"limit": 0}, "limit 0"),
        ({"limit": MAX_LIMIT + 1}, "limit 16385"),
        ({"limit": MAX_LIMIT, "exclude": [1]}, "together above"),
        ({"diversity_weight": -1.0}, "diversity_weight"),
        ({"diversity_weight": float("nan")}, "diversity_weight"),
        ({"diversity_weight": 1.0}, "category column"),
        ({"diversity_weight": 1.0, "category_column": "nope"}, "unknown columns: nope"),
        ({"merging": "median"}, "merging 'median' must be one of max, budget, round_robin"),
        ({"merging": "budget", "diversity_weight": 1.0, "category_column": "genre"}, "not with budget"),
        ({"merging": "budget", "weights": [0.5, 0.5]}, "2 weights for 1 interests"),
        ({"merging": "budget", "weights": [-1.0]}, "weights"),
        ({"merging": "round_robin", "weights": [float("nan")]}, "weights"),
        ({"filter": {"nope": 1}}, "unknown column 'nope'"),
        ({"interests": np.full((1, DIM), np.nan, np.float32)}, "finite"),
        ({"interests": np.ones((1, DIM + 1), np.float32)}, "must be"),
    ],
    ids=str,
)
def test_a_malformed_request_is_refused(store: InMemoryVectorStore, arguments: dict[str, Any], problem: str) -> None:
    arguments = {"interests": np.ones((1, DIM), np.float32), "limit": 3, **arguments}
    with pytest.raises(InvalidRequest, match=problem):
        retrieve(store, VERSION, **arguments)


def test_an_unknown_version_is_an_error_of_the_store(store: InMemoryVectorStore) -> None:
    with pytest.raises(VectorStoreError, match="v2"):
        retrieve(store, "v2", np.ones((1, DIM), np.float32), 3)
