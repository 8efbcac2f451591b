"""The floors against slow twins, how they fill their lists, and how they are tuned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.dataset_info import DatasetInfo
from benchmarks.floors import fitted
from benchmarks.tasks import mean_recall, user_split
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation import HeldOut, held_out
from mind_dist.evaluation.floors import FLOORS, Choice, Effort, TrainLog, ease, item_knn, neighbors, tuned
from mind_dist.evaluation.floors.item_knn import ItemKNN
from mind_dist.evaluation.floors.ranking import FloorRecommender
from mind_dist.evaluation.floors.transition_graph import Shares, TransitionGraph
from mind_dist.evaluation.floors.tuning import Clock, Search
from mind_dist.records import BehaviorSequence
from tests.reference import floor_loops
from tests.toy_quality import write_quality_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_quality_dataset(tmp_path_factory.mktemp("floors"))


@pytest.fixture(scope="module")
def log(dataset: PreparedDataset) -> TrainLog:
    return TrainLog.read(dataset)


def train_of(dataset: PreparedDataset) -> list[list[int]]:
    return [sequence.item_keys.tolist() for sequence in dataset.sequences("train")]


def histories_of(dataset: PreparedDataset) -> list[BehaviorSequence]:
    return [user.history for user in held_out(dataset)]


def check_scores(
    dataset: PreparedDataset, found: FloorRecommender, twin: floor_loops.Weights, last: int, decay: float
) -> None:
    catalog, histories = dataset.catalog(), histories_of(dataset)
    for (rows, scores), history in zip(found.score(histories), histories, strict=True):
        expected = floor_loops.scores(twin, catalog.keys.tolist(), history.item_keys.tolist(), last, decay)
        everything = np.zeros(len(catalog), dtype=np.float32)
        everything[rows] = scores
        np.testing.assert_allclose(everything, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("window", "lag_power"), [(1, 0.0), (3, 0.5), (40, 1.0)])
def test_counts_in_blocks_equal_a_loop(
    dataset: PreparedDataset, log: TrainLog, window: int, lag_power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_PAIRS_AT_ONCE", 50)
    counts = neighbors.forward_counts(log, window, lag_power)
    keys = log.catalog.keys.tolist()
    expected = floor_loops.forward_counts(train_of(dataset), window, lag_power)
    rows = [[expected.get((before, after), 0.0) for after in keys] for before in keys]
    np.testing.assert_allclose(counts.toarray(), rows, rtol=1e-5)
    once = neighbors.forward_counts(log, window, 0.0)
    assert once.sum() == neighbors.num_pairs(log, window)


@pytest.mark.parametrize(
    "settings", [ItemKNN(4, 0.7, 0.5, 0.5, 3), ItemKNN(30, 1.0, 0.25, 1.0, 40, 0.5, 0.3), ItemKNN(1, 0.6, 0, 0, 1)]
)
def test_item_knn_scores_like_its_slow_twin(dataset: PreparedDataset, log: TrainLog, settings: ItemKNN) -> None:
    twin = floor_loops.item_knn(
        train_of(dataset),
        settings.window,
        settings.lag_power,
        backward=settings.backward,
        source_power=settings.source_power,
        target_power=settings.target_power,
    )
    check_scores(dataset, item_knn.fit(log, settings), twin, settings.last, settings.decay)


def test_item_knn_is_tuned_by_what_it_then_recommends(dataset: PreparedDataset, log: TrainLog) -> None:
    choice = Choice(held_out(dataset, "valid"), cutoff=3)
    found = tuned("itemknn", log, choice)
    assert found.quality == pytest.approx(choice.quality(item_knn.fit(log, found.settings)))
    assert found.quality >= max(choice.quality(item_knn.fit(log, start)) for start in item_knn.STARTS)


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_ease_solves_every_items_regression(dataset: PreparedDataset, log: TrainLog, penalty: float) -> None:
    twin = floor_loops.ease(train_of(dataset), log.catalog.keys.tolist(), penalty)
    check_scores(dataset, ease.fit(log, ease.EASE(penalty, 4, 0.7)), twin, 4, 0.7)


def test_ease_of_a_large_catalog_knows_its_most_frequent_items(dataset: PreparedDataset, log: TrainLog) -> None:
    frequent = np.sort(log.catalog.keys[np.argsort(-log.catalog.counts, kind="stable")[:7]])
    found = ease.fit(log, ease.EASE(5.0, 4, 0.7), most_items=7)
    check_scores(dataset, found, floor_loops.ease(train_of(dataset), frequent.tolist(), 5.0), 4, 0.7)
    (ranked,) = found.recommend(histories_of(dataset)[:1], 9, exclude_seen=False)
    popular = log.catalog.keys[log.popular]
    assert set(ranked[:7]) == set(frequent)
    assert ranked[7:].tolist() == popular[7:9].tolist()


@pytest.mark.parametrize("most_items", [10, 100])
def test_ease_is_tuned_by_what_it_then_recommends(dataset: PreparedDataset, log: TrainLog, most_items: int) -> None:
    choice = Choice(held_out(dataset, "valid"), cutoff=3)
    found = ease.tune(log, choice, most_items=most_items)
    assert found.quality == pytest.approx(choice.quality(ease.fit(log, found.settings, most_items)))


@pytest.mark.parametrize("shares", [((7, 2, 1),), ((5, 1), (3, 1)), ((10,),)])
def test_the_transition_graph_fills_places_from_rings_as_a_loop_does(
    dataset: PreparedDataset, log: TrainLog, shares: Shares
) -> None:
    names = log.catalog.table["categories"].to_pylist()
    features = dict(zip(log.catalog.keys.tolist(), map(set, names), strict=True))
    settings = TransitionGraph(shares, 0.8, 3)
    found = FLOORS["tgh"].fit(log, settings).recommend(histories_of(dataset), 30, exclude_seen=False)
    for ranked, history in zip(found, histories_of(dataset), strict=True):
        behaviors = history.item_keys.tolist()
        expected = floor_loops.ring_list(
            train_of(dataset), features, behaviors, shares=shares, edge_weight=0.8, anchor=3
        )
        assert ranked[: len(expected)].tolist() == expected


@pytest.mark.parametrize("name", ["itemknn", "ease", "tgh"])
def test_behaviors_that_are_no_items_are_passed_over(log: TrainLog, name: str) -> None:
    known, mixed = (
        BehaviorSequence(1, np.array(keys), np.arange(len(keys))) for keys in ([3, 5, 7, 9], [3, 999, 5, 7, -4, 9])
    )
    recommender = FLOORS[name].fit(log, FLOORS[name].default)
    first, second = recommender.recommend([known, mixed], 20, exclude_seen=False)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_full_of_distinct_items_and_end_by_popularity(log: TrainLog, *, exclude_seen: bool) -> None:
    history = BehaviorSequence(1, np.array([3, 5, 3]), np.arange(3))
    recommender = item_knn.fit(log, ItemKNN(last=1, window=1))
    (ranked,) = recommender.recommend([history], 30, exclude_seen=exclude_seen)
    assert len(set(ranked.tolist())) == len(ranked) == (28 if exclude_seen else 30)
    assert bool({3, 5} & set(ranked.tolist())) != exclude_seen
    (rows, _) = next(iter(recommender.score([history])))
    rest = ranked[len(set(rows.tolist()) - ({2, 4} if exclude_seen else set())) :]
    places = log.ranks[log.catalog.rows(rest)]
    assert (np.diff(places) > 0).all()
    (nothing,) = recommender.recommend([BehaviorSequence(2)], 5, exclude_seen=exclude_seen)
    assert nothing.tolist() == log.catalog.keys[log.popular[:5]].tolist()


@pytest.mark.parametrize("name", FLOORS)
def test_floors_are_tuned_and_beat_chance(dataset: PreparedDataset, name: str) -> None:
    task = user_split(DatasetInfo(10), dataset)
    floor = fitted(name, task, task.reporting)
    ranked = floor.recommender.recommend([user.history for user in task.reporting.users], 5, exclude_seen=False)
    assert all(len(keys) == 5 for keys in ranked)
    assert mean_recall(floor.recommender, task.reporting.users) > 0
    again = fitted(name, task, task.reporting)
    assert again.tuning == floor.tuning
    assert floor.tuning.finished


@pytest.mark.parametrize("name", FLOORS)
def test_without_anybody_to_choose_by_defaults_are_taken(log: TrainLog, name: str) -> None:
    assert tuned(name, log, Choice([])).settings == FLOORS[name].default


GRID = {"a": tuple(range(20)), "b": tuple(range(20))}


def test_a_search_finds_a_hill_over_a_dent_and_tries_no_point_twice() -> None:
    tried = []

    def quality(point: dict[str, int]) -> float:
        tried.append((point["a"], point["b"]))
        return -abs(point["a"] - 13) - abs(point["b"] - 4) - 5.0 * (point["a"] == 8)

    search = Search(GRID, quality, Clock("test", Effort()))  # type: ignore[arg-type]
    assert search.descend({"a": 2, "b": 17}) == {"a": 13, "b": 4}
    assert len(set(tried)) == len(tried) < 100


def test_a_search_follows_a_ridge_that_no_setting_alone_can() -> None:
    search = Search(GRID, lambda point: point["a"] - 5.0 * abs(point["a"] - point["b"]), Clock("test", Effort()))
    end = search.descend({"a": 3, "b": 3})
    assert end == {"a": 3, "b": 3}
    assert search.refine(end) == {"a": 19, "b": 19}


def test_a_search_whose_time_is_up_keeps_its_start() -> None:
    clock = Clock("test", Effort(max_cpu_s=-1.0))
    search = Search(GRID, lambda point: point["a"], clock)
    assert search.descend({"a": 2, "b": 17}) == {"a": 2, "b": 17}
    assert not clock.result(None, 0.0).finished


def test_a_sample_of_users_is_even_and_keeps_their_moments() -> None:
    users = [HeldOut(BehaviorSequence(key), BehaviorSequence(key)) for key in range(10)]
    thinned = Choice(users).thinned(4)
    assert [user.history.user_key for user in thinned.users] == [0, 3, 6, 9]
    assert Choice(users[::-1]).thinned(4).users == thinned.users
    assert Choice(users).thinned(10).users is users


def test_a_catalog_without_features_has_a_transition_graph(dataset: PreparedDataset) -> None:
    bare = TrainLog.read(dataset)
    place = bare.catalog.table.column_names.index("feature_keys")
    empty = pa.array([[]] * len(bare.catalog), pa.list_(pa.int64()))
    catalog = dataclasses.replace(bare.catalog, table=bare.catalog.table.set_column(place, "feature_keys", empty))
    recommender = FLOORS["tgh"].fit(dataclasses.replace(bare, catalog=catalog), TransitionGraph())
    assert all(len(keys) == 10 for keys in recommender.recommend(histories_of(dataset), 10, exclude_seen=False))
