"""Many items, and more than one publisher: filled in parallel, gone on with, one publish at a time, and what mixing would cost."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jobs.publish import _summary, versions_table
from mind_dist.config import PublishConfig
from mind_dist.errors import LeaseLost, PublishError, ServiceUnavailable
from mind_dist.index.memory import InMemoryPublishLock, InMemoryVectorStore
from mind_dist.index.vector_store import ItemRows, VersionInfo
from mind_dist.publishing import publish, rollback
from mind_dist.publishing.item_map import item_map
from mind_dist.publishing.one_at_a_time import only_publisher
from mind_dist.publishing.verification import skew_recall
from tests.plain_versions import NUM_ITEMS, USERS, PlainEncoder, name_of, publish_version


class Failing(InMemoryVectorStore):
    """Takes so many requests with items, and then no more; counts items taken, and requests at a time."""

    def __init__(self, most: int = 1 << 30) -> None:
        super().__init__()
        self.most = most
        self.written: list[int] = []
        self.at_once = self.most_at_once = 0
        self._count = threading.Lock()

    def upsert_items(self, model_version: str, rows: ItemRows) -> None:
        with self._count:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.most -= 1
            fails = self.most < 0
        time.sleep(0.002)
        with self._count:
            self.at_once -= 1
        if fails:
            raise ServiceUnavailable("Milvus", "here", 1)
        super().upsert_items(model_version, rows)
        self.written += rows.keys.tolist()


CONFIG = PublishConfig(batch_size=2, fill_threads=3, lease_s=0.1)


def fail_half_way() -> Failing:
    store = Failing(most=6)
    with pytest.raises(ServiceUnavailable):
        publish_version(store, 1, config=CONFIG)
    assert 0 < len(store.written) < NUM_ITEMS
    assert list(store.versions()) == []
    store.most = 1 << 30
    return store


def assert_whole(store: InMemoryVectorStore, number: int) -> None:
    assert store.active_version() == name_of(number)
    assert store.count_items(name_of(number)) == NUM_ITEMS
    assert store.count_users(name_of(number)) == len(USERS)
    vectors = PlainEncoder(number).item_vectors
    [hits] = store.search_items(name_of(number), vectors[7:8], NUM_ITEMS)
    np.testing.assert_allclose(hits.scores, np.sort(vectors @ vectors[7])[::-1], rtol=1e-5)


def test_items_are_written_several_requests_at_a_time_and_no_more() -> None:
    store = Failing()
    publish_version(store, 1, config=CONFIG)
    assert 1 < store.most_at_once <= 3
    assert sorted(store.written) == list(range(NUM_ITEMS))


def test_a_publish_that_failed_half_way_goes_on() -> None:
    store = fail_half_way()
    before, progress = len(store.written), list[int]()
    publish_version(
        store, 1, config=CONFIG, advance=lambda step, done: progress.append(done) if step == "items" else None
    )
    assert sorted(store.written) == list(range(NUM_ITEMS))
    assert progress[0] == before + 2
    assert progress[-1] == NUM_ITEMS
    assert_whole(store, 1)


def test_a_killed_publish_is_gone_on_with_and_its_users_are_not() -> None:
    store = fail_half_way()
    lock = store.publish_lock()
    lock.create("somebody who was killed")
    half = dataclasses.replace(_info(store), published_ms=1)
    assert store.renew_version(half)
    store.upsert_users(name_of(1), [_row(99)])
    store.stage(name_of(1))
    publish_version(store, 1, config=CONFIG)
    assert sorted(store.written) == list(range(NUM_ITEMS))
    assert_whole(store, 1)


def _info(store: InMemoryVectorStore) -> Any:
    return store._items_left[name_of(1)].info


def _row(user_key: int) -> Any:
    whole = InMemoryVectorStore()
    publish_version(whole, 1)
    return dataclasses.replace(next(whole.scan_users(name_of(1))), user_key=user_key)


def test_a_version_that_did_not_pass_or_has_other_columns_starts_anew() -> None:
    store = Failing()
    with pytest.raises(PublishError, match="evaluate it first"):
        publish_version(store, 1, config=dataclasses.replace(CONFIG, min_recall=0.5))
    with pytest.raises(PublishError, match="did not make the rows"):
        publish_version(store, 1, config=dataclasses.replace(CONFIG, catch_up_s=0), catch_up=lambda _version: False)
    publish_version(store, 1, config=CONFIG)
    assert len(store.written) == 2 * NUM_ITEMS
    other = fail_half_way()
    columnless = PlainEncoder(1).catalog.table.select(["item_id", "count", "feature_keys"])
    encoder = PlainEncoder(1, catalog=type(PlainEncoder(1).catalog)(columnless))
    before = len(other.written)
    publish_version(other, 1, encoder=encoder, config=CONFIG)
    assert len(other.written) == before + NUM_ITEMS


def test_items_left_of_another_version_go() -> None:
    store = fail_half_way()
    publish_version(store, 2, config=CONFIG)
    before = len(store.written)
    publish_version(store, 1, config=CONFIG)
    assert len(store.written) == before + NUM_ITEMS


def test_of_the_versions_kept_all_but_the_one_just_left_are_released_and_loaded_again_before_a_rollback() -> None:
    store = Failing()
    for number in (1, 2, 3):
        publish_version(store, number, config=dataclasses.replace(CONFIG, keep=2))
    assert [store.is_released(name_of(number)) for number in (1, 2, 3)] == [True, False, False]
    assert [row[1] for row in _rows(store)] == ["active", "", "released"]
    assert rollback(store, name_of(1), CONFIG) == name_of(1)
    assert not store.is_released(name_of(1))


def _rows(store: InMemoryVectorStore) -> list[tuple[Any, ...]]:
    return list(zip(*(column.cells for column in versions_table(store).columns), strict=True))


# One at a time


def test_a_second_publish_is_refused_while_the_first_one_lives() -> None:
    store, answers = InMemoryVectorStore(), list[str]()

    def try_another(_version: str) -> bool:
        for other in (lambda: publish_version(store, 2, config=CONFIG), lambda: rollback(store, None, CONFIG)):
            with pytest.raises(
                PublishError, match=r"another publish is under way: process \d+ on .* since .* UTC"
            ) as refused:
                other()
            answers.append(str(refused.value))
        return True

    publish_version(store, 1, config=CONFIG, catch_up=try_another)
    assert len(answers) == 2
    assert store.publish_lock().state() is None
    publish_version(store, 2, config=CONFIG)


def test_a_dead_publishers_lock_is_taken_over_after_a_lease() -> None:
    lock, waits = InMemoryPublishLock(), list[float]()
    lock.create("dead")
    with only_publisher(lock, 20.0, waits.append) as lease:
        lease.check()
        assert lock.state() != ("dead", 0)
    assert sum(waits) == pytest.approx(20)
    assert lock.state() is None


def test_a_lock_that_goes_while_it_is_looked_at_is_taken() -> None:
    lock = InMemoryPublishLock()
    lock.create("about to end")
    with only_publisher(lock, 20.0, lambda _seconds: lock.remove("about to end")) as lease:
        lease.check()


def test_a_publisher_that_was_frozen_for_a_lease_leaves_all_to_the_other_one() -> None:
    store = InMemoryVectorStore()

    def freeze(info: VersionInfo) -> bool:
        lock = store.publish_lock()
        while (state := lock.state()) is not None:
            lock.remove(state[0])
        lock.create("the other one")
        store.stage(info.model_version)
        return True

    with pytest.raises(LeaseLost, match="another publish has taken over meanwhile: the other one"):
        publish_version(store, 1, config=CONFIG, catch_up=freeze)
    assert store.publish_lock().state() == ("the other one", 0)
    assert (store.active_version(), store.staged_version()) == (None, name_of(1))
    assert store.count_items(name_of(1)) == NUM_ITEMS


class Kept(InMemoryPublishLock):
    """A lock whose server goes away before it is given back."""

    def remove(self, holder: str) -> None:
        raise ServiceUnavailable("Milvus", holder, 1)


def test_a_lock_that_cannot_be_given_back_does_not_undo_what_was_published(caplog: pytest.LogCaptureFixture) -> None:
    with only_publisher(Kept(), 20.0) as lease:
        lease.check()
    assert "was left in the store" in caplog.text


class Away(InMemoryPublishLock):
    """A lock whose server goes away once it is taken."""

    def beat(self, holder: str) -> bool:
        raise ServiceUnavailable("Milvus", holder, 1)


def test_a_holder_that_cannot_beat_for_a_lease_has_lost_it(wait_until: Callable[[Callable[[], bool]], None]) -> None:
    with only_publisher(Away(), 0.05) as lease:
        wait_until(lambda: lease._lost)
        with pytest.raises(LeaseLost):
            lease.check()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(done: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 30
        while not done() and time.monotonic() < give_up:
            time.sleep(0.01)

    return wait


# What mixing versions would cost


def test_the_skew_of_versions_is_the_share_of_the_best_items_that_the_other_interests_find() -> None:
    random = np.random.default_rng(3)
    items = random.normal(size=(40, 4)).astype(np.float32)
    drawn = random.normal(size=(5, 2, 2, 4)).astype(np.float32)
    pairs = [(own, other) for own, other in drawn]
    pairs += [(np.zeros((0, 4), np.float32), pairs[0][0])]

    def best(interests: Any) -> set[int]:
        scored = [(max(float(row @ item) for row in interests), at) for at, item in enumerate(items)]
        return {at for _, at in sorted(scored, reverse=True)[:7]}

    expected = np.mean([len(best(own) & best(other)) / 7 for own, other in pairs[:5]])
    assert skew_recall(pairs, items, limit=7) == pytest.approx(expected)
    assert skew_recall([(own, own) for own, _ in pairs], items, limit=7) == 1.0
    assert skew_recall(pairs, items, limit=400) == 1.0
    assert skew_recall(pairs[5:], items, limit=7) is None


def test_a_publish_reports_what_mixing_its_version_with_the_one_before_would_cost() -> None:
    store, config = InMemoryVectorStore(), PublishConfig(ann_limit=5, allow_breaking=True)
    assert publish_version(store, 1, config=config).skew_recall is None
    report = publish_version(store, 2, config=config)
    before, own = ({row.user_key: row.interests for row in store.scan_users(name_of(n))} for n in (1, 2))
    expected = skew_recall([(own[key], before[key]) for key in own], PlainEncoder(2).item_vectors, limit=5)
    assert report.skew_recall == expected
    assert f"would find {expected:.1%} of the best items for a user among the new ones" in _summary(report)
    wider = publish(store, PlainEncoder(3, dim=8), "file:///v", config)
    assert wider.skew_recall is None
    assert "never mix" not in _summary(wider)


# The map of items


def test_the_map_is_the_first_two_principal_components() -> None:
    vectors = np.random.default_rng(4).normal(size=(200, 6)).astype(np.float32) * [5, 1, 3, 1, 1, 1] + 2
    places = item_map(vectors.astype(np.float32))
    centered = vectors.astype(np.float32).astype(np.float64)
    centered -= centered.mean(axis=0)
    u, s, v = np.linalg.svd(centered, full_matrices=False)
    for axis in range(2):
        sign = np.sign(v[axis][np.abs(v[axis]).argmax()])
        np.testing.assert_allclose(places[:, axis], sign * u[:, axis] * s[axis], atol=1e-6)
    assert item_map(vectors.astype(np.float32)).tobytes() == places.tobytes()


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (3, 2)])
def test_a_map_of_few_items_or_numbers_is_finite(shape: tuple[int, int]) -> None:
    places = item_map(np.random.default_rng(5).normal(size=shape).astype(np.float32))
    assert places.shape == (shape[0], 2)
    assert np.isfinite(places).all()


def test_a_version_has_the_map_as_columns() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    vectors = PlainEncoder(1).item_vectors
    [hits] = store.search_items(name_of(1), vectors[:1], 3, columns=["map_x", "map_y"])
    found = np.stack([hits.columns["map_x"], hits.columns["map_y"]], axis=1)
    np.testing.assert_array_equal(found, item_map(vectors)[hits.keys])
