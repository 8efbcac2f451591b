"""Evaluation by time: which items are candidates at a moment, recent popularity and chance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.dataset.activity import ACTIVITY, Activity, activity_of, read_activity
from mind_dist.dataset.item_catalog import IS_COLD, ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest, PreparedDataset, sequences_table, write_manifest
from mind_dist.errors import DatasetError
from mind_dist.evaluation import (
    Availability,
    HeldOut,
    Moments,
    chance,
    measure,
    popularity,
    task_of,
)
from mind_dist.evaluation.floors import TrainLog, choice_of, tuned
from mind_dist.evaluation.floors.recent_popularity import RecentPopularity
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory
from tests.reference import moment_loops

HOUR_MS = 3_600_000
ITEMS = list(range(6))
COLD = 5


def sequence(user: int, *events: tuple[int, int]) -> BehaviorSequence:
    """Return a user's events, given as (hour, item)."""
    hours, items = zip(*events, strict=True) if events else ((), ())
    return BehaviorSequence(user, np.array(items, np.int64), np.array(hours, np.int64) * HOUR_MS)


def catalog(available: dict[int, tuple[int, int]] | None = None) -> ItemCatalog:
    """Return a catalog whose last item is cold; with hours from and until if they are given."""
    table = pa.table([ITEMS, [str(item) for item in ITEMS], [9, 5, 4, 3, 2, 0], [[]] * 6], schema=ITEM_SCHEMA)
    table = table.append_column(IS_COLD, pa.array([item == COLD for item in ITEMS]))
    if available is not None:
        bounds = [available.get(item, (0, 1000)) for item in ITEMS]
        for place, name in enumerate(("available_from", "available_until")):
            table = table.append_column(name, pa.array([bound[place] * HOUR_MS for bound in bounds]))
    return ItemCatalog(table)


def write(
    path: Path,
    users: list[BehaviorSequence],
    available: dict[int, tuple[int, int]] | None = None,
    others: list[BehaviorSequence] | None = None,
    by: str = "time",
) -> PreparedDataset:
    """Write a dataset whose train ends at hour 10 and whose valid ends at hour 20; `others` are in its activity alone."""
    directory = Directory.at(path)
    for split, end in (("train", 10), ("valid", 20), ("test", 1000)):
        kept = [user.slice(0, int(np.searchsorted(user.timestamps_ms, end * HOUR_MS))) for user in users]
        directory.write_table(f"sequences/{split}/bucket-00000.parquet", sequences_table(kept))
    directory.write_table(f"{ACTIVITY}/bucket-00000.parquet", activity_of(sequences_table([*users, *(others or [])])))
    directory.write_table("items.parquet", catalog(available).table)
    cuts = {"train_before_ms": 10 * HOUR_MS, "valid_before_ms": 20 * HOUR_MS}
    split_by = {"by": "time", **cuts} if by == "time" else {"by": "user", "input_fraction": 0.5}
    write_manifest(directory, DatasetManifest("int64", 1, {}, {}, 5, 0, 0, split=split_by, num_cold_items=1))
    return PreparedDataset.open(directory.uri)


def candidates(dataset: PreparedDataset, split: str = "test") -> list[list[int]]:
    task = task_of(dataset, "test" if split == "test" else "valid")
    return [np.flatnonzero(mask).tolist() for mask in task.at.masks(np.array(ITEMS))]


def test_by_time_the_columns_say_what_could_be_recommended(tmp_path: Path) -> None:
    hours = {0: (0, 20), 1: (0, 21), 2: (20, 30), 3: (21, 30), 4: (5, 15)}
    dataset = write(tmp_path, [sequence(1, (1, 0), (20, 2), (22, 3))], hours)
    assert candidates(dataset) == [[1, 2, COLD]]


def test_without_columns_an_item_came_with_its_first_event_and_never_goes(tmp_path: Path) -> None:
    users = [sequence(1, (1, 0), (20, 2), (22, 3)), sequence(2, (19, 1), (21, 4))]
    assert candidates(write(tmp_path, users)) == [[0, 1, 2, COLD], [0, 1, 2, 4, COLD]]


def test_first_events_of_users_in_no_split_count_too(tmp_path: Path) -> None:
    dataset = write(tmp_path, [sequence(1, (1, 0), (20, 2))], others=[sequence(2, (19, 4))])
    assert candidates(dataset) == [[0, 1, 2, 3, 4, COLD]]  # 1 and 3 have no event at all


def test_by_user_the_items_of_the_log_are_ranked_and_cold_ones_are_not(tmp_path: Path) -> None:
    dataset = write(tmp_path, [sequence(1, (1, 0), (20, 2))], {0: (0, 1)}, by="user")
    assert candidates(dataset) == [[0, 1, 2, 3, 4]]
    task = task_of(dataset)
    assert measure(popularity(dataset.catalog()), task.users, dataset.catalog(), at=task.at)["coverage@50"] == 1.0


def test_what_was_not_available_in_time_is_left_out_of_the_targets_and_counted(tmp_path: Path) -> None:
    hours = {2: (20, 30), 3: (21, 30), 4: (0, 20)}
    users = [
        sequence(1, (1, 0), (20, 2), (22, 3), (23, 2)),  # 3 comes an hour too late
        sequence(2, (1, 0), (20, 4), (22, 3)),  # 4 is just gone, 3 not there yet
    ]
    task = task_of(write(tmp_path, users, hours))
    assert [user.history.user_key for user in task.users] == [1]
    assert [user.targets.tolist() for user in task.users] == [[2, 2]]
    assert (task.num_targets, task.num_unavailable_targets, task.num_unavailable_users) == (2, 3, 1)
    assert task.at.times_ms.tolist() == [20 * HOUR_MS]


def test_a_split_whose_targets_never_were_available_says_so(tmp_path: Path) -> None:
    dataset = write(tmp_path, [sequence(1, (1, 0), (20, 4), (21, 4))], {4: (0, 20)})
    with pytest.raises(DatasetError, match="none of the 2 targets of the test split was available in time"):
        task_of(dataset)


def test_a_dataset_of_an_earlier_release_is_to_be_prepared_again(tmp_path: Path) -> None:
    dataset = write(tmp_path, [sequence(1, (1, 0), (20, 2))])
    (tmp_path / ACTIVITY / "bucket-00000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"activity: missing or torn.*prepare it again"):
        task_of(dataset)


moments = st.lists(st.integers(0, 50 * HOUR_MS), min_size=1, max_size=5)
events = st.lists(st.tuples(st.integers(0, 50 * HOUR_MS), st.sampled_from(ITEMS)), max_size=30)


@given(events, moments, st.sampled_from([HOUR_MS, 6 * HOUR_MS, 48 * HOUR_MS]))
def test_recent_popularity_equals_its_loop(log: list[tuple[int, int]], times: list[int], window_ms: int) -> None:
    ordered = sorted(log)
    everything = BehaviorSequence(
        1, np.array([i for _, i in ordered], np.int64), np.array([t for t, _ in ordered], np.int64)
    )
    table = activity_of(sequences_table([everything]))
    activity = Activity(*(table[name].to_numpy() for name in ("slot", "item_id", "count", "first_ms")))
    always = Availability(np.array(ITEMS), np.zeros(6, np.int64), np.full(6, 1 << 62))
    at = Moments(np.array(times, np.int64), always)
    nothing, directory = np.empty(0, np.int64), Directory.at("unused")
    empty = PreparedDataset(directory, DatasetManifest("int64", 1, {}, {}, 5, 0, 0), "")
    recommender = RecentPopularity(
        TrainLog(catalog(), nothing, nothing, np.zeros(1, np.int64), empty), activity, window_ms
    )
    ranked = recommender.recommend([sequence(1)] * len(times), 6, exclude_seen=False, at=at)
    expected = [moment_loops.popular_before(log, ITEMS, moment, window_ms) for moment in times]
    assert [keys.tolist() for keys in ranked] == expected


def test_without_moments_recent_popularity_is_of_each_historys_end(tmp_path: Path) -> None:
    users = [sequence(1, (1, 0), (3, 1), (3, 1), (5, 2)), sequence(2, (9, 4), (9, 4), (9, 4))]
    log = TrainLog.read(write(tmp_path, users, by="user"))
    recommender = RecentPopularity(log, log.activity, 3 * HOUR_MS)
    histories = [sequence(3, (11, 0)), sequence(4, (4, 0)), sequence(5, (6, 0)), sequence(6)]
    ranked = recommender.recommend(histories, 2, exclude_seen=False)
    assert [keys.tolist() for keys in ranked] == [[4, 0], [1, 0], [1, 2], [0, 1]]


def test_the_window_is_the_one_valid_users_find_most_by(tmp_path: Path) -> None:
    crowds = ((2, 14, 5), (1, 10, 20), (3, 1, 100))  # item, hour, events
    others = [sequence(10 + item, *[(hour, item)] * count) for item, hour, count in crowds]
    dataset = write(tmp_path / "somebody", [sequence(1, (1, 0), (15, 1))], others=others)
    choice = dataclasses.replace(choice_of(dataset), cutoff=1)
    assert tuned("recent_popularity", TrainLog.read(dataset), choice).settings.hours == 6
    nobody = write(tmp_path / "nobody", [sequence(1, (1, 0), (25, 1))], others=others)
    assert tuned("recent_popularity", TrainLog.read(nobody), choice_of(nobody)).settings.hours == 24


@given(
    st.sets(st.sampled_from(ITEMS), min_size=1),
    st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_chance_is_the_mean_over_all_draws(available: set[int], targets: list[int], limit: int) -> None:
    user = HeldOut(sequence(1, (0, 0)), sequence(1, *[(2, item) for item in targets]))
    until = np.array([HOUR_MS * 10 if item in available else 0 for item in ITEMS])
    at = Moments.of([user], Availability(np.array(ITEMS), np.zeros(6, np.int64), until))
    found = chance([user], np.array(ITEMS), limit, at, exclude_seen=False)
    recall, hit_rate = moment_loops.chance_recall(sorted(available), targets, limit)
    assert found["recall"] == pytest.approx(recall)
    assert found["hit_rate"] == pytest.approx(hit_rate)
    assert found["candidates"] == len(available)
    removed = chance([user], np.array(ITEMS), limit, at, exclude_seen=True)
    assert removed["candidates"] == len(available - {0})


def test_activity_adds_up_over_buckets_in_order_of_time(tmp_path: Path) -> None:
    directory = Directory.at(tmp_path)
    parts = [[sequence(1, (5, 2), (9, 1))], [sequence(2, (1, 3), (5, 2))]]
    for bucket, users in enumerate(parts):
        directory.write_table(f"{ACTIVITY}/bucket-{bucket:05d}.parquet", activity_of(sequences_table(users)))
    dataset = PreparedDataset(directory, DatasetManifest("int64", 2, {}, {}, 5, 0, 0), "")
    found = read_activity(dataset)
    assert (found.slots // 6).tolist() == [1, 5, 9]
    assert (found.item_keys.tolist(), found.counts.tolist()) == ([3, 2, 1], [1, 2, 1])
    assert found.first_seen_ms(np.array([1, 2, 4])).tolist() == [9 * HOUR_MS, 5 * HOUR_MS, 0]
