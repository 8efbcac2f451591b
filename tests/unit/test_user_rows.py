from collections.abc import Sequence

import numpy as np
import pytest

from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow
from mind_dist.serving.user_rows import UserRows
from tests.toy_serving import DIM, VERSION, Clock, toy_store


class CountingStore(InMemoryVectorStore):
    """Notes how users are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, list[int]]] = []

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        self.reads.append(("strong" if strong else "bounded", sorted(user_keys)))
        return super().get_users(model_version, user_keys, strong=strong)

    def get_users_singly(self, model_version: str, user_keys: Sequence[int]) -> dict[int, UserRow]:
        self.reads.append(("singly", sorted(user_keys)))
        return super().get_users(model_version, user_keys, strong=True)


def row_of(user_key: int, partition: int = 0) -> UserRow:
    return UserRow(user_key, np.ones((1, DIM), np.float32), np.ones(1, np.float32), partition=partition)


class Setting:
    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.clock = Clock()
        self.store = CountingStore()
        toy_store(self.store)
        self.store.upsert_users(VERSION, [row_of(key) for key in (1, 2, 3)])
        self.rows = UserRows(self.store, VERSION, visibility_s=10, max_bytes=max_bytes, clock=self.clock)
        self.rows.assign(0)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_reads_are_strong_just_after_an_assignment_and_bounded_later(setting: Setting) -> None:
    setting.rows.load({1: 0})
    setting.clock.now += 10
    setting.rows.assign(1)
    setting.rows.load({2: 0, 3: 1})
    assert setting.store.reads == [("strong", [1]), ("strong", [3]), ("bounded", [2])]


def test_a_user_that_seems_missing_is_asked_for_again_by_single_key(setting: Setting) -> None:
    assert setting.rows.load({1: 0, 9: 0})[9] is None
    assert setting.store.reads == [("strong", [1, 9]), ("singly", [9])]
    assert setting.rows.load({9: 0}) == {9: None}
    assert len(setting.store.reads) == 2


def test_what_was_written_or_deleted_lately_stays_in_memory_whatever_the_bound() -> None:
    setting = Setting(max_bytes=0)
    setting.rows.write([row_of(1)])
    setting.rows.delete({2: 0})
    setting.clock.now += 9
    loaded = setting.rows.load({1: 0, 2: 0})
    assert (loaded[1] is not None, loaded[2]) == (True, None)
    assert setting.store.reads == []
    setting.clock.now += 2
    setting.rows.load({3: 0})
    assert len(setting.rows) == 0


def test_the_row_touched_longest_ago_goes_first() -> None:
    setting = Setting(max_bytes=2400)
    setting.rows.load({1: 0})
    setting.rows.load({2: 0})
    setting.rows.load({1: 0})
    setting.rows.load({3: 0})
    setting.store.reads.clear()
    setting.rows.load({1: 0, 3: 0})
    assert setting.store.reads == []
    setting.rows.load({2: 0})
    assert setting.store.reads == [("strong", [2])]


def test_rows_of_a_revoked_partition_are_forgotten(setting: Setting) -> None:
    setting.rows.write([row_of(1, 0), row_of(2, 1)])
    setting.rows.revoke(0)
    assert len(setting.rows) == 1
    setting.rows.load({1: 0, 2: 1})
    assert setting.store.reads == [("bounded", [1])]
