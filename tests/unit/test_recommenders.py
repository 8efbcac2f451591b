"""Popularity, transitions and exact search, against plain loops and hand-worked figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset, Split, sequences_table, write_manifest
from mind_dist.errors import ConfigError, DatasetError
from mind_dist.evaluation import ExactRecommender, HeldOut, held_out, measure, popularity, transitions
from mind_dist.evaluation.users import nearest_border
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory
from tests.reference import metric_loops

NUM_ITEMS = 8
histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=6)


def sequence(items: list[int], user: int = 0) -> BehaviorSequence:
    return BehaviorSequence(user, np.array(items, np.int64), np.arange(len(items)))


def catalog(train: list[list[int]], num_items: int = NUM_ITEMS) -> ItemCatalog:
    counts = np.bincount(np.array([item for items in train for item in items], np.int64), minlength=num_items)
    keys = list(range(num_items))
    table = pa.table([keys, [str(key) for key in keys], counts, [[]] * num_items], schema=ITEM_SCHEMA)
    return ItemCatalog(table.append_column("genre", pa.array(["ab"[key % 2] for key in keys])))


def write(path: Path, split: dict[str, object] | None = None, **users: list[list[int]]) -> PreparedDataset:
    """Write sequences of two buckets by split."""
    directory = Directory.at(path)
    for name in ("train", "valid", "test"):
        kept = [sequence(items, user) for user, items in enumerate(users.get(name, []))]
        for bucket in range(2):
            directory.write_table(f"sequences/{name}/bucket-{bucket:05d}.parquet", sequences_table(kept[bucket::2]))
    directory.write_table("items.parquet", catalog(users.get("train", [])).table)
    by = split or {"by": "user", "input_fraction": 0.8}
    write_manifest(directory, DatasetManifest("int64", 2, {}, {}, NUM_ITEMS, 0, 0, split=by))
    return PreparedDataset.open(directory.uri)


@given(histories)
def test_popularity_equals_its_loop(train: list[list[int]]) -> None:
    (ranked,) = popularity(catalog(train)).recommend([sequence([])], 5, exclude_seen=False)
    assert ranked.tolist() == metric_loops.popular(train, range(NUM_ITEMS))[:5]


@given(histories, st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8))
def test_transitions_equal_their_loop(
    tmp_path_factory: pytest.TempPathFactory, train: list[list[int]], history: list[int]
) -> None:
    recommender = transitions(write(tmp_path_factory.mktemp("dataset"), train=train))
    (ranked,) = recommender.recommend([sequence(history)], NUM_ITEMS, exclude_seen=False)
    assert ranked.tolist() == metric_loops.followers(train, range(NUM_ITEMS), history)


def test_transitions_count_who_followed_and_fall_back_to_popularity(tmp_path: Path) -> None:
    recommender = transitions(write(tmp_path, train=[[1, 2, 1, 3], [1, 3, 7, 7, 7, 7]]))
    after_one, unknown = recommender.recommend([sequence([1]), sequence([99])], 3, exclude_seen=False)
    assert after_one.tolist() == [3, 2, 7]
    assert unknown.tolist() == [7, 1, 3]


def test_seen_items_are_left_out_when_asked_so(tmp_path: Path) -> None:
    recommender = popularity(write(tmp_path, train=[[1, 1, 2]]).catalog())
    (ranked,) = recommender.recommend([sequence([1, 99])], NUM_ITEMS, exclude_seen=True)
    assert ranked.tolist() == [2, 0, 3, 4, 5, 6, 7]


def test_items_of_minus_infinity_are_not_recommended() -> None:
    scores = np.array([[1.0, -np.inf, 3.0]])
    recommender = ExactRecommender(np.array([10, 20, 30]), lambda _histories: scores.copy())
    assert [ranked.tolist() for ranked in recommender.recommend([sequence([])], 3, exclude_seen=False)] == [[30, 10]]


def test_without_items_nothing_is_recommended() -> None:
    recommender = popularity(catalog([], num_items=0))
    assert [len(ranked) for ranked in recommender.recommend([sequence([1])], 3, exclude_seen=True)] == [0]


def test_the_first_four_fifths_are_shown_and_the_rest_is_to_be_found(tmp_path: Path) -> None:
    dataset = write(tmp_path, test=[[0, 1, 2, 3, 4], [5], [0, 1, 2, 3, 4, 5, 6]])
    users = {user.history.user_key: user for user in held_out(dataset)}
    assert {key: user.targets.tolist() for key, user in users.items()} == {0: [4], 2: [5, 6]}
    assert users[2].history.item_keys.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(sorted), st.integers(0, 12))
def test_a_cut_by_visit_is_at_the_nearest_border_between_times(times: list[int], at: int) -> None:
    borders = [place for place in range(1, len(times)) if times[place] != times[place - 1]]
    expected = min(borders, key=lambda place: abs(place - at), default=0)
    assert nearest_border(np.array(times), at) == expected


def test_cut_by_visit_nobody_is_asked_for_the_rest_of_a_basket(tmp_path: Path) -> None:
    dataset = write(tmp_path, test=[[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    sequences = {user.user_key: user for user in dataset.sequences("test")}
    baskets = {0: [1, 1, 2, 2, 2], 1: [5, 5, 5, 5, 5]}  # the second user has one visit only, and is left out
    for bucket in range(dataset.manifest.num_buckets):
        name = f"sequences/test/bucket-{bucket:05d}.parquet"
        keys = dataset.directory.read_table(name)["user_id"].to_pylist()
        users = [replace(sequences[key], timestamps_ms=np.array(baskets[key])) for key in keys]
        dataset.directory.write_table(name, sequences_table(users))
    assert [user.targets.tolist() for user in held_out(dataset)] == [[4], [4]]
    assert [user.targets.tolist() for user in held_out(dataset, cut="visit")] == [[2, 3, 4]]


@pytest.mark.parametrize(
    "cuts", [None, {"by": "time", "train_before_ms": 1, "valid_before_ms": 2}, {"by": "leave-one-out"}]
)
def test_cut_at_the_last_everybody_is_asked_for_one_item(tmp_path: Path, cuts: dict[str, object] | None) -> None:
    dataset = write(tmp_path, cuts, test=[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 4, 5]])
    assert [user.targets.tolist() for user in held_out(dataset, cut="last")] == [[9], [5]]


def test_leaving_one_out_is_how_a_dataset_may_be_split(tmp_path: Path) -> None:
    dataset = write(tmp_path, {"by": "leave-one-out"}, valid=[[0, 1, 2]], test=[[0, 1, 2, 3], [4]])
    assert [user.targets.tolist() for user in held_out(dataset, "valid")] == [[2]]
    assert [user.history.item_keys.tolist() for user in held_out(dataset)] == [[0, 1, 2]]


@pytest.mark.parametrize(("split", "expected"), [("valid", [2, 3, 4]), ("test", [4])])
def test_split_by_time_shows_what_was_before_the_cut(tmp_path: Path, split: Split, expected: list[int]) -> None:
    cuts = {"by": "time", "train_before_ms": 2, "valid_before_ms": 4}
    dataset = write(tmp_path, cuts, valid=[[0, 1, 2, 3, 4]], test=[[0, 1, 2, 3, 4]])
    assert split != "train"
    assert [user.targets.tolist() for user in held_out(dataset, split)] == [expected]


def test_a_split_without_users_to_evaluate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path}: the test split has no user"):
        held_out(write(tmp_path, test=[[1]]))


def test_a_missing_bucket_is_named(tmp_path: Path) -> None:
    dataset = write(tmp_path, test=[[0, 1, 2, 3, 4]])
    (tmp_path / "sequences/test/bucket-00001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"sequences/test/bucket-00001\.parquet: missing or torn"):
        held_out(dataset)
    (tmp_path / "sequences/train/bucket-00000.parquet").write_bytes(b"torn")
    with pytest.raises(DatasetError, match=r"sequences/train/bucket-00000\.parquet: missing or torn"):
        transitions(dataset)


def user(history: list[int], future: list[int]) -> HeldOut:
    return HeldOut(sequence(history), sequence(future))


def test_metrics_are_means_over_users_with_history_kept_and_removed() -> None:
    items = catalog([[0, 0, 0, 1, 1, 2]])
    found = measure(popularity(items), [user([0], [0, 7]), user([3], [2])], items, "genre")
    assert found["recall@50"] == 1.0
    assert found["recall@50_removed"] == 0.75
    assert found["hit_rate@50_removed"] == 1.0
    assert found["coverage@50"] == 1.0
    assert found["diversity@50"] == pytest.approx(16 / 28)


def test_diversity_is_left_out_without_a_category_and_needs_a_known_one() -> None:
    items = catalog([[0]])
    assert "diversity@20" not in measure(popularity(items), [user([0], [1])], items)
    with pytest.raises(ConfigError, match="no column of the item catalog; it has item_id"):
        measure(popularity(items), [user([0], [1])], items, "color")


def test_items_of_several_categories_differ_when_they_share_none() -> None:
    items = catalog([], num_items=3)
    genres = pa.array([["a", "b"], ["b"], None], pa.list_(pa.string()))
    table = items.table.set_column(items.table.column_names.index("genre"), "genre", genres)
    found = measure(popularity(ItemCatalog(table)), [user([], [1])], ItemCatalog(table), "genre")
    assert found["diversity@20"] == pytest.approx(2 / 3)


def test_category_coverage_is_a_mean_over_users_whose_targets_have_categories() -> None:
    items = catalog([], num_items=3)
    genres = pa.array([["a", "b"], ["c"], None], pa.list_(pa.string()))
    table = items.table.set_column(items.table.column_names.index("genre"), "genre", genres)
    first = ExactRecommender(np.array([0]), lambda some: np.ones((len(some), 1)))
    users = [user([], [0, 1]), user([], [1]), user([], [2]), user([], [99])]
    found = measure(first, users, ItemCatalog(table), "genre")
    assert found["category_coverage@50"] == pytest.approx((2 / 3 + 0) / 2)
    assert "category_coverage@50" not in measure(first, users[2:], ItemCatalog(table), "genre")
    assert "category_coverage@50" not in measure(first, users, ItemCatalog(table))


def test_recommendations_outside_the_catalog_count_for_nothing_in_coverage() -> None:
    items = catalog([], num_items=2)
    stranger = ExactRecommender(np.array([1, 99]), lambda some: np.ones((len(some), 2)))
    assert measure(stranger, [user([], [1])], items, "genre")["coverage@20"] == 0.5
