"""Publishing over the in-memory store: what readers see, whatever happens."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from jobs.publish import _summary
from mind_dist.config import PublishConfig
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, ITEM_SCHEMA, ItemCatalog
from mind_dist.errors import PublishError, ServiceUnavailable
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import Column, Hits, UserRow, VectorStore, VersionInfo
from mind_dist.limits import MAX_COLUMNS
from mind_dist.publishing import publish, rollback
from mind_dist.publishing.item_columns import item_columns
from mind_dist.publishing.verification import InterestSample
from mind_dist.records import MAX_TIES, BehaviorSequence
from tests.plain_versions import (
    DIM,
    NUM_ITEMS,
    SMALL,
    USERS,
    PlainEncoder,
    make_catalog,
    name_of,
    publish_version,
    updaters,
)


def rows_of(store: VectorStore, number: int) -> dict[int, UserRow]:
    return {row.user_key: row for row in store.scan_users(name_of(number))}


def assert_encoded(row: UserRow, number: int, sequence: BehaviorSequence) -> None:
    [wanted] = PlainEncoder(number).encode([sequence.last(3)])
    np.testing.assert_array_equal(row.interests, wanted.vectors)
    np.testing.assert_array_equal(row.behaviors, sequence.item_keys[-3:])
    np.testing.assert_array_equal(row.timestamps_ms, sequence.timestamps_ms[-3:])
    np.testing.assert_array_equal(row.profile, sequence.profile_keys)


def test_a_version_is_filled_by_updaters_and_then_active() -> None:
    store = InMemoryVectorStore()
    progress: list[tuple[str, int]] = []
    report = publish_version(store, 1, advance=lambda step, done: progress.append((step, done)))
    assert store.active_version() == report.model_version == name_of(1)
    assert (report.num_items, report.num_users, report.ann_recall, report.recall) == (NUM_ITEMS, 7, 1.0, None)
    assert (report.previous_version, report.retired, report.already_active) == (None, (), False)
    assert progress[-1] == ("items", NUM_ITEMS)
    for sequence in USERS:
        assert_encoded(rows_of(store, 1)[sequence.user_key], 1, sequence)


def test_a_version_tells_what_it_is() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1, encoder=PlainEncoder(1, {"recall@50": 0.25}))
    [info] = store.versions()
    columns = (
        Column("original_id", nullable=True),
        Column("title", nullable=True),
        Column("year", "integer", nullable=True),
        Column("price", "real", nullable=True),
        Column("genres", "texts"),
        Column("adult", nullable=True),
        Column("map_x", "real"),
        Column("map_y", "real"),
    )
    expected = VersionInfo(
        name_of(1), DIM, 2, "cosine", "file:///v", 3 + MAX_TIES, "string", 1, 9, {"recall@50": 0.25}, columns
    )
    expected = dataclasses.replace(expected, num_items=NUM_ITEMS)
    assert dataclasses.replace(info, published_ms=0) == expected


def test_items_without_a_value_lack_it() -> None:
    found = item_columns(make_catalog(), np.array([2, 3, 4, 6]), "string")
    assert {column.name: values for column, values in found.items()} == {
        "original_id": ["i2", None, "i4", "i6"],
        "title": ["item 2", None, None, "item 6"],
        "year": [1992, None, None, 1996],
        "price": [1.0, None, None, None],
        "genres": [["a", "b"], [], [], []],
        "adult": ["true", None, None, "false"],
    }
    assert {column.name for column in found if column.nullable} == {column.name for column in found} - {"genres"}
    assert not any(column.nullable for column in item_columns(make_catalog(), np.array([2, 8]), "string"))
    assert "original_id" not in {column.name for column in item_columns(make_catalog(), np.array([2]), "int64")}


def perishable(*kept: int) -> ItemCatalog:
    """Return items that are gone, but for some; one of them the version does not know."""
    keys = [*range(NUM_ITEMS), 5_000]
    table = pa.table([keys, [str(key) for key in keys], [1] * len(keys), [[]] * len(keys)], schema=ITEM_SCHEMA)
    until = [AVAILABILITY_LIMITS["available_until"] if key in kept else 1 for key in keys]
    table = table.append_column("available_from", pa.array([0] * len(keys)))
    return ItemCatalog(table.append_column("available_until", pa.array(until)))


def test_items_available_now_are_counted_and_the_index_is_verified_as_it_is_searched() -> None:
    store = Counting()
    report = publish_version(store, 1, encoder=PlainEncoder(1, catalog=perishable(2, 4)))
    assert (report.num_items, report.num_available, report.num_unknown_items) == (NUM_ITEMS, 2, 1)
    assert report.ann_recall == 1.0
    assert all(wanted and wanted["available_until"] for wanted in store.filters)
    assert "2 items are available now" in _summary(report)
    assert "1 items of the catalog are left out" in _summary(report)


def test_a_version_whose_items_are_all_gone_is_verified_over_all_and_says_so() -> None:
    store = Counting()
    report = publish_version(store, 1, encoder=PlainEncoder(1, catalog=perishable()))
    assert (report.num_available, report.ann_recall) == (0, 1.0)
    assert store.filters
    assert not any(store.filters)
    assert "0 items are available now" in _summary(report)


class Counting(InMemoryVectorStore):
    """Keeps the filters it was searched with."""

    def __init__(self) -> None:
        super().__init__()
        self.filters: list[Any] = []

    def search_items(self, *args: Any, **settings: Any) -> Sequence[Hits]:
        self.filters.append(settings.get("filter"))
        return super().search_items(*args, **settings)


def test_items_that_the_catalog_lacks_are_always_available() -> None:
    values = {
        column.name: found for column, found in item_columns(perishable(2, 4), np.array([0, 9999]), "int64").items()
    }
    assert values == {"available_from": [0, 0], "available_until": [1, AVAILABILITY_LIMITS["available_until"]]}


def test_publishing_the_active_version_again_says_so() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    before = store.versions()
    assert publish_version(store, 1).already_active
    assert store.versions() == before


def test_a_version_published_again_starts_empty() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    publish_version(store, 2)
    store.stage(name_of(1))
    publish_version(store, 1, catch_up=updaters(store, PlainEncoder(1), USERS[:2]))
    assert sorted(rows_of(store, 1)) == [0, 1]
    assert (store.active_version(), store.staged_version()) == (name_of(1), None)


def test_updaters_that_do_not_catch_up_fail_the_publish() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    config = dataclasses.replace(SMALL, catch_up_s=0)
    with pytest.raises(PublishError, match="did not make the rows"):
        publish_version(store, 2, config=config, catch_up=lambda _info: False)
    assert_untouched(store)


def test_readers_are_switched_when_updaters_have_made_the_rows_of_a_staged_version() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    seen: list[Any] = []
    answers = iter([False, False, True])

    def catch_up(info: VersionInfo) -> bool:
        seen.append((info.model_version, store.staged_version(), store.active_version()))
        return next(answers)

    publish_version(store, 2, catch_up=catch_up, sleep=lambda _seconds: None)
    assert seen == [(name_of(2), name_of(2), name_of(1))] * 3
    assert store.active_version() == name_of(2)


def test_nobody_waits_for_users_where_that_is_not_wanted() -> None:
    store = InMemoryVectorStore()
    config = dataclasses.replace(SMALL, wait_for_users=False)
    report = publish_version(store, 1, config=config, catch_up=lambda _info: False)
    assert (report.num_users, store.active_version()) == (0, name_of(1))


def test_a_version_gone_back_to_is_brought_up_to_date_first() -> None:
    store = InMemoryVectorStore()
    for number in (1, 2):
        publish_version(store, number)
    with pytest.raises(PublishError, match="did not make the rows"):
        rollback(store, config=PublishConfig(catch_up_s=0), catch_up=lambda _info: False)
    assert (store.active_version(), store.staged_version()) == (name_of(2), None)
    staged: list[Any] = []

    def caught_up(info: VersionInfo) -> bool:
        staged.append((info.model_version, store.staged_version()))
        return True

    assert rollback(store, catch_up=caught_up) == store.active_version() == name_of(1)
    assert staged == [(name_of(1), name_of(1))]
    assert store.staged_version() is None


def assert_untouched(store: VectorStore, number: int = 1) -> None:
    assert (store.active_version(), store.staged_version()) == (name_of(number), None)
    assert name_of(2) not in {info.model_version for info in store.versions()}


@pytest.mark.parametrize(
    ("metrics", "config", "passes"),
    [
        ({"recall@50": 0.95}, PublishConfig(), True),
        ({"recall@50": 0.89}, PublishConfig(), False),
        ({"recall@50": 0.5}, PublishConfig(max_recall_drop=0.5), True),
        ({"recall@50": 0.95}, PublishConfig(min_recall=0.96), False),
        ({}, PublishConfig(), True),
        ({}, PublishConfig(min_recall=0.1), False),
    ],
)
def test_a_version_of_too_low_recall_is_not_published(
    metrics: dict[str, float], config: PublishConfig, *, passes: bool
) -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1, encoder=PlainEncoder(1, {"recall@50": 1.0}))
    if passes:
        publish_version(store, 2, encoder=PlainEncoder(2, metrics), config=config)
        assert store.active_version() == name_of(2)
    else:
        with pytest.raises(PublishError, match="recall@50"):
            publish_version(store, 2, encoder=PlainEncoder(2, metrics), config=config)
        assert_untouched(store)


def other_columns() -> ItemCatalog:
    """Return a catalog that lost its prices, and has years as texts and a column more."""
    table = make_catalog().table.drop_columns(["price"])
    years = table["year"].cast(pa.string())
    return ItemCatalog(table.set_column(table.schema.get_field_index("year"), "year", years).append_column("x", years))


BREAKING: list[tuple[dict[str, Any], str]] = [
    ({"dim": 8}, "dim is 8, was 4"),
    ({"normalize": False}, "similarity is inner_product, was cosine"),
    ({"catalog": other_columns()}, "column year is of kind text, was integer; column price is gone"),
    ({"dim": 8, "normalize": False}, "dim is 8, was 4; similarity is inner_product, was cosine"),
]


@pytest.mark.parametrize(("changes", "difference"), BREAKING)
def test_a_version_that_readers_cannot_go_on_with_is_published_only_on_purpose(
    changes: dict[str, Any], difference: str
) -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    before = rows_of(store, 1)
    message = f"readers of the active {name_of(1)} cannot go on with {name_of(2)}: {difference}: set publishing.allow"
    with pytest.raises(PublishError, match=re.escape(message)):
        publish_version(store, 2, encoder=PlainEncoder(2, **changes))
    assert_untouched(store)
    assert rows_of(store, 1).keys() == before.keys()
    config = dataclasses.replace(SMALL, allow_breaking=True)
    publish_version(store, 2, encoder=PlainEncoder(2, **changes), config=config)
    assert store.active_version() == name_of(2)
    assert rollback(store) == name_of(1)


def test_a_version_with_ids_of_another_type_is_never_published() -> None:
    store = InMemoryVectorStore()
    publish_version(store, 1)
    catalog = ItemCatalog(make_catalog().table)
    for config in (SMALL, dataclasses.replace(SMALL, allow_breaking=True)):
        with pytest.raises(
            PublishError, match=r"has int64 ids, the active v\S+ string ids: .* set by MIND_DIST_DEPLOYM"
        ):
            publish_version(store, 2, encoder=PlainEncoder(2, id_type="int64", catalog=catalog), config=config)
        assert_untouched(store)


def test_a_column_more_or_one_that_lacks_values_now_breaks_no_reader() -> None:
    store = InMemoryVectorStore()
    table = make_catalog().table
    full = table.set_column(table.schema.get_field_index("year"), "year", pa.array(range(15), pa.int64()))
    publish_version(store, 1, encoder=PlainEncoder(1, catalog=ItemCatalog(full)))
    more = table.append_column("studio", pa.array([None] * 15, pa.string()))
    publish_version(store, 2, encoder=PlainEncoder(2, catalog=ItemCatalog(more)))
    assert store.active_version() == name_of(2)


@pytest.mark.parametrize("name", ["vector", "missing_columns", "map_x", "Like", "in", "Preis (EUR)", "2nd", "ü", ""])
def test_a_column_that_no_filter_can_name_is_refused(name: str) -> None:
    catalog = ItemCatalog(make_catalog().table.append_column(name, pa.array(range(15))))
    with pytest.raises(
        PublishError, match=re.escape(f"an index cannot have an item column {name!r}: it ") + "(must|is) "
    ):
        item_columns(catalog, np.arange(3), "string")


def test_more_columns_than_an_index_has_are_refused() -> None:
    table = make_catalog().table
    for at in range(MAX_COLUMNS):
        table = table.append_column(f"more{at}", pa.array(range(15)))
    with pytest.raises(PublishError, match="at most 59 item columns, the catalog 65: prepare fewer"):
        item_columns(ItemCatalog(table), np.arange(3), "string")


def test_a_list_keeps_the_texts_it_has() -> None:
    lists = pa.array([["a", None], [None], [], None, *([["b"]] * 11)], pa.list_(pa.string()))
    catalog = ItemCatalog(make_catalog().table.append_column("tags", lists))
    found = {column.name: values for column, values in item_columns(catalog, np.arange(0, 10, 2), "int64").items()}
    assert found["tags"] == [["a"], [], [], [], ["b"]]


class Blind(InMemoryVectorStore):
    """An index that misses the best item of each query."""

    def search_items(self, *args: Any, **settings: Any) -> Any:
        return [dataclasses.replace(hits, keys=hits.keys[1:]) for hits in super().search_items(*args, **settings)]


def test_an_index_that_misses_items_is_not_published() -> None:
    store = Blind()
    with pytest.raises(PublishError, match=r"finds 90.0% of the best items, 95.0% needed"):
        publish_version(store, 1, config=dataclasses.replace(SMALL, ann_limit=10))
    assert list(store.versions()) == []
    report = publish_version(store, 1, catch_up=None, config=PublishConfig(ann_limit=10, min_ann_recall=0.9))
    assert report.ann_recall == pytest.approx(0.9)


class Breaking:
    """A store on which one call fails, before or after it did its work."""

    def __init__(self, store: VectorStore, at: int, *, done: bool) -> None:
        self._store, self._at, self._done = store, at, done
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            self.calls.append(name)
            breaks = len(self.calls) == self._at
            if breaks and not self._done:
                raise ServiceUnavailable("Milvus", "here", 1)
            result = getattr(self._store, name)(*arguments, **settings)
            if breaks:
                raise ServiceUnavailable("Milvus", "here", 1)
            return result

        return call


def publish_with(at: int, *, done: bool) -> tuple[InMemoryVectorStore, Breaking]:
    """Publish 0 and 1 well, and then 2 with a store that breaks at a call."""
    store = InMemoryVectorStore()
    for number in (8, 0, 1):
        publish_version(store, number)
    breaking = Breaking(store, at, done=done)
    try:
        publish_version(cast("VectorStore", breaking), 2, encoder=PlainEncoder(2))
    except ServiceUnavailable:
        assert len(breaking.calls) >= at
    return store, breaking


CALLS = publish_with(0, done=False)[1].calls
SWITCH = CALLS.index("activate") + 1


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(1, len(CALLS) + 1), ids=lambda at: f"{at}-{CALLS[at - 1]}")
def test_a_failure_at_any_call_leaves_readers_on_a_whole_version(at: int, *, done: bool) -> None:
    store, _ = publish_with(at, done=done)
    number = 1 if at <= SWITCH else 2
    assert store.active_version() == name_of(number)
    assert store.staged_version() is None
    assert store.count_items(name_of(number)) == NUM_ITEMS
    assert store.count_users(name_of(number)) == len(USERS)
    assert (name_of(2) in {info.model_version for info in store.versions()}) == (number == 2)


def test_a_first_version_that_fails_leaves_an_empty_store() -> None:
    store = InMemoryVectorStore()
    with pytest.raises(ServiceUnavailable):
        publish_version(cast("VectorStore", Breaking(store, SWITCH - 8, done=False)), 1)
    assert list(store.versions()) == []


def test_what_cannot_be_removed_does_not_hide_the_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Blind):
        def drop_version(self, model_version: str, *, keep_items: bool = False) -> None:
            if model_version in names(self) and self.count_users(model_version):
                raise ServiceUnavailable("Milvus", "here", 1)
            super().drop_version(model_version, keep_items=keep_items)

    store = Stuck()
    columnless = ItemCatalog(make_catalog().table.select(["item_id", "count", "feature_keys"]))
    with pytest.raises(PublishError, match="best items"):
        publish_version(
            store, 1, encoder=PlainEncoder(1, catalog=columnless), config=dataclasses.replace(SMALL, ann_limit=10)
        )
    assert "left in the store" in caplog.text


def test_a_version_without_items_is_not_published() -> None:
    class Empty(PlainEncoder):
        @property
        def item_keys(self) -> Any:
            return np.empty(0, dtype=np.int64)

    with pytest.raises(PublishError, match="no items"):
        publish_version(InMemoryVectorStore(), 1, encoder=Empty(1))


# What stays, and the way back


def names(store: VectorStore) -> list[str]:
    return [info.model_version for info in store.versions()]


def test_older_versions_are_dropped() -> None:
    store = InMemoryVectorStore()
    config = PublishConfig(keep=2)
    for number in (4, 9, 2, 7):
        report = publish_version(store, number, config=config)
    assert names(store) == [name_of(number) for number in (2, 7, 9)]
    assert report.retired == (name_of(4),)
    publish_version(store, 5, config=PublishConfig(keep=0))
    assert names(store) == [name_of(5)]


def test_rollback_returns_to_the_version_published_before() -> None:
    store = InMemoryVectorStore()
    for number in (4, 9, 2):
        publish_version(store, number, config=PublishConfig())
    assert rollback(store) == store.active_version() == name_of(9)
    assert rollback(store) == name_of(4)
    with pytest.raises(PublishError, match=f"no version before {name_of(4)}"):
        rollback(store)
    assert rollback(store, name_of(2)) == store.active_version() == name_of(2)
    with pytest.raises(PublishError, match="no version nope"):
        rollback(store, "nope")


def test_rollback_of_an_empty_store_says_so() -> None:
    with pytest.raises(PublishError, match="go back to"):
        rollback(InMemoryVectorStore())


def test_versions_rolled_back_from_or_left_half_made_are_no_place_to_go_back_to() -> None:
    store = InMemoryVectorStore()
    for number in (1, 2):
        publish_version(store, number, config=PublishConfig())
    rollback(store)
    half_made = dataclasses.replace(store.versions()[0], model_version="v_half", published_ms=2**60)
    store.create_version(half_made)
    store.stage("v_half")
    report = publish_version(store, 3, config=PublishConfig())
    assert set(report.retired) == {name_of(2), "v_half"}
    assert rollback(store) == name_of(1)


def test_a_sample_of_interests_has_its_size_and_leaves_no_user_out_for_coming_late() -> None:
    taken: list[float] = []
    sample = InterestSample(20)
    for user in range(1000):
        sample.offer(np.full((user % 3, 1), user, dtype=np.float32))
    queries = sample.queries()
    assert queries is not None
    taken = sorted(set(queries[:, 0].tolist()))
    assert len(taken) == 20
    assert taken[0] < 300
    assert taken[-1] > 700
    assert InterestSample(3).queries() is None


def test_metrics_of_an_evaluation_are_judged_and_kept() -> None:
    store, encoder = InMemoryVectorStore(), PlainEncoder(1)
    with pytest.raises(PublishError, match="evaluate it first"):
        publish(store, encoder, "uri", PublishConfig(min_recall=0.2))
    with pytest.raises(PublishError, match=r"0\.1"):
        publish(store, encoder, "uri", PublishConfig(min_recall=0.2), metrics={"recall@50": 0.1})
    report = publish(store, encoder, "uri", PublishConfig(min_recall=0.2), metrics={"recall@50": 0.3})
    assert report.recall == 0.3
    assert store.versions()[0].metrics["recall@50"] == 0.3
