"""The item table: rows by key, counted, admitted, updated and carried over."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.training.draws import DrawLaw
from mind_dist.training.item_table import ItemTable
from mind_dist.training.sightings import Sightings
from mind_dist.training.sparse_rows import initial_rows
from tests.reference.row_adam import RowAdam, RowWiseAdam

DIM = 6


def keys(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def table_with_items(*items: int, **options: Any) -> ItemTable:
    table = ItemTable(DIM, seed=1, **options)
    table.set_counts(keys(*sorted(items)), np.ones(len(items), dtype=np.int64), seen_ms=9)
    return table


def rows_of(table: ItemTable, *items: int) -> torch.Tensor:
    return table.lookup(keys(*items))[0].detach()


def train_rows(table: ItemTable, step: int, touched: Any) -> None:
    rows, _ = table.lookup(touched)
    (rows * initial_rows(touched, DIM, seed=100 + step)).sum().backward()
    table.apply_gradients(0.01)


@pytest.mark.parametrize("twin_of", [RowAdam, RowWiseAdam])
def test_updates_equal_an_adam_of_its_own_for_every_row_touched(twin_of: type[RowAdam | RowWiseAdam]) -> None:
    items = list(range(-5, 15))
    table = table_with_items(*items, one_second_moment=twin_of is RowWiseAdam)
    first = rows_of(table, *items)
    twin = twin_of(dict(zip(items, first, strict=True)))
    generator = np.random.default_rng(0)
    for step in range(30):
        touched = keys(*generator.choice(items, size=7, replace=False))
        gradients = initial_rows(touched, DIM, seed=100 + step)
        train_rows(table, step, touched)
        twin.update(dict(zip(touched.tolist(), gradients, strict=True)), 0.01)
    expected = torch.stack([twin.rows[item].detach() for item in items])
    torch.testing.assert_close(rows_of(table, *items), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_rows_go_on_where_second_moments_are_kept_in_the_other_way(before: bool, after: bool) -> None:
    table = table_with_items(1, 2, one_second_moment=before)
    for step in range(3):
        train_rows(table, step, keys(1, 2))
    rows, other = table.all_rows(), table_with_items(1, 2, one_second_moment=after)
    other.load(rows)
    found, width = other.all_rows(), 1 if after else DIM
    assert found.second_moment.shape == (2, width)
    expected = np.broadcast_to(rows.second_moment.mean(axis=1, keepdims=True), (2, width))
    np.testing.assert_allclose(found.second_moment, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.first_moment, rows.first_moment)


def test_a_young_row_learns_faster_and_less_so_with_every_update() -> None:
    table, twin = table_with_items(1, 2), RowAdam(dict(zip([1, 2], rows_of(table_with_items(1, 2), 1, 2), strict=True)))
    for step in range(400):
        touched = keys(1, 2) if step >= 350 else keys(1)  # 2 begins late
        rows, _ = table.lookup(touched)
        gradients = initial_rows(touched, DIM, seed=step)
        (rows * gradients).sum().backward()
        table.apply_gradients(0.004, 0.01)
        for key, gradient in zip(touched.tolist(), gradients, strict=True):
            updates = step + 1 if key == 1 else step - 349
            twin.update({key: gradient}, max(0.004, 0.01 / (1 + updates / 100)))
    expected = torch.stack([twin.rows[item].detach() for item in (1, 2)])
    torch.testing.assert_close(rows_of(table, 1, 2), expected, rtol=1e-5, atol=1e-6)


def test_a_row_begins_the_same_whenever_and_beside_whatever_it_is_added() -> None:
    one, other = table_with_items(3, 5, 9), table_with_items(9)
    other.observe(keys(5), seen_ms=1)
    assert torch.equal(rows_of(one, 5, 9), rows_of(other, 5, 9))


def test_first_values_are_normal_and_differ_by_key_and_seed() -> None:
    rows = initial_rows(np.arange(2000), 16, seed=4)
    assert abs(float(rows.mean())) < 0.005
    assert abs(float(rows.std()) - 0.25) < 0.005
    assert len(rows.unique(dim=0)) == 2000
    assert float(torch.corrcoef(rows.T).fill_diagonal_(0).abs().max()) < 0.1
    assert not torch.equal(rows, initial_rows(np.arange(2000), 16, seed=5))


def test_an_item_gets_a_row_when_it_was_seen_often_enough() -> None:
    table = ItemTable(DIM, admission_count=3)
    table.observe(keys(7, 7, 8), seen_ms=5)
    assert not table.has(keys(7, 8)).any()
    table.observe(keys(7), seen_ms=6)
    assert table.has(keys(7, 8)).tolist() == [True, False]
    assert table.num_items == 1
    assert table.sighting_shares(keys(7, 8, 99)).tolist() == [3 / 4, 1 / 4, 1 / 4]


def test_features_have_rows_but_are_never_items() -> None:
    table = table_with_items(1, 2)
    table.add_features(keys(50, 51, 50))
    assert table.has(keys(50, 51)).all()
    assert set(table.sample_items(200, np.random.default_rng(0)).tolist()) == {1, 2}


def test_sampled_items_are_even_and_none_without_items() -> None:
    table = table_with_items(*range(10))
    sampled = table.sample_items(10_000, np.random.default_rng(0))
    assert np.bincount(sampled).min() > 900
    assert not len(ItemTable(DIM).sample_items(5, np.random.default_rng(0)))


COUNTS = np.array([1, 2, 3, 5, 8, 13, 21, 34])


def counted_table() -> ItemTable:
    table = ItemTable(DIM, seed=1)
    table.set_counts(np.arange(10, 18), COUNTS, seen_ms=9)
    table.add_features(keys(50))
    return table


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 1.0, 2.0])
def test_items_are_drawn_in_proportion_to_a_power_of_their_counts(power: float) -> None:
    table = counted_table()
    shares = table.draw_shares(np.arange(10, 18), DrawLaw(power=power))
    np.testing.assert_allclose(shares, COUNTS**power / (COUNTS**power).sum())
    drawn = np.bincount(table.sample_items(40_000, np.random.default_rng(0), DrawLaw(power=power)), minlength=18)[10:]
    np.testing.assert_allclose(drawn / 40_000, shares, atol=0.01)


def test_items_are_drawn_log_uniformly_by_the_rank_of_their_counts() -> None:
    table, law = counted_table(), DrawLaw("log_uniform")
    shares, ranks = table.draw_shares(np.arange(10, 18), law), np.argsort(np.argsort(-COUNTS, kind="stable"))
    np.testing.assert_allclose(shares, np.log((ranks + 2) / (ranks + 1)) / np.log(len(COUNTS) + 1))
    drawn = np.bincount(table.sample_items(40_000, np.random.default_rng(0), law), minlength=18)[10:]
    np.testing.assert_allclose(drawn / 40_000, shares, atol=0.01)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_shares_sum_to_one_over_all_items_and_are_none_for_what_is_no_item(power: float) -> None:
    table = counted_table()
    assert table.draw_shares(table.all_items(), DrawLaw(power=power)).sum() == pytest.approx(1)
    assert table.draw_shares(keys(10, 99), DrawLaw(power=power))[1] == 0
    assert not ItemTable(DIM).draw_shares(keys(10), DrawLaw(power=power)).any()
    assert not len(ItemTable(DIM).sample_items(5, np.random.default_rng(0), DrawLaw(power=power)))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_features_are_never_drawn(power: float) -> None:
    table = counted_table()
    assert 50 not in table.sample_items(5_000, np.random.default_rng(0), DrawLaw(power=power))


def test_shares_follow_what_is_seen() -> None:
    table = ItemTable(DIM, admission_count=2)
    table.observe(keys(1, 1, 1, 2, 2, 3), seen_ms=1)
    assert table.draw_shares(keys(1, 2, 3), DrawLaw(power=1.0)).tolist() == [3 / 5, 2 / 5, 0], "3 waits for a row"
    table.observe(keys(2, 3, 3), seen_ms=2)
    assert table.draw_shares(keys(1, 2, 3), DrawLaw(power=1.0)).tolist() == [1 / 3, 1 / 3, 1 / 3]
    table.set_counts(keys(1, 2, 3), keys(1, 1, 7), seen_ms=3)
    assert table.draw_shares(keys(1, 2, 3), DrawLaw(power=1.0)).tolist() == [1 / 9, 1 / 9, 7 / 9], (
        "also where their sum stays"
    )
    drawn = np.bincount(table.sample_items(9_000, np.random.default_rng(0), DrawLaw(power=1.0)))
    np.testing.assert_allclose(drawn[1:] / 1_000, [1, 1, 7], rtol=0.1)


def test_shares_of_a_loaded_table_are_those_of_the_saved_one() -> None:
    table, loaded = counted_table(), ItemTable(DIM, seed=1)
    loaded.set_counts(np.arange(10, 18), COUNTS[::-1].copy(), seen_ms=1)
    assert loaded.draw_shares(keys(10), DrawLaw(power=1.0)) > 0.3
    loaded.load(table.all_rows())
    np.testing.assert_array_equal(
        loaded.draw_shares(loaded.all_items(), DrawLaw(power=1.0)),
        table.draw_shares(table.all_items(), DrawLaw(power=1.0)),
    )


def test_all_items_are_those_with_a_row_ascending() -> None:
    table = ItemTable(DIM, admission_count=2)
    assert not len(table.all_items())
    table.add_features(keys(50))
    table.observe(keys(9, 9, 4, -3, -3), seen_ms=1)
    assert table.all_items().tolist() == [-3, 9]
    table.observe(keys(4), seen_ms=2)
    assert table.all_items().tolist() == [-3, 4, 9]
    assert table.num_items == 3


def test_own_rows_are_those_that_were_used_and_load_into_an_equal_table() -> None:
    table = table_with_items(*range(20), admission_count=1)
    table.add_features(keys(100, 101))
    train_rows(table, 0, keys(3, 100))
    loaded = ItemTable(DIM, seed=1)
    assert table.all_rows().keys.tolist() == [*range(20), 100]
    for part in table.own_rows():
        loaded.load(part)
    loaded.add_features(keys(100, 101))
    for each in (table, loaded):
        train_rows(each, 1, keys(2, 3, 100, 101))
    assert_same(table.all_rows(), loaded.all_rows())
    sampled = [each.sample_items(50, np.random.default_rng(2)).tolist() for each in (table, loaded)]
    assert sampled[0] == sampled[1]


def test_rows_that_nobody_has_looked_up_take_no_room() -> None:
    table = table_with_items(*range(1000))
    assert not len(table._rows)
    train_rows(table, 0, keys(3, 7, 900))
    assert len(table._rows) == 3
    assert len(table.all_rows()) == 1000, "and are saved, since serving has vectors of all items"
    assert len(table._rows) == 3


def assert_same(left: Any, right: Any) -> None:
    for column in dataclasses.fields(left):
        np.testing.assert_array_equal(getattr(left, column.name), getattr(right, column.name))


def test_items_waiting_for_a_row_are_carried_over() -> None:
    table = ItemTable(DIM, seed=1, admission_count=2)
    table.observe(keys(4, 5, 5, 6), seen_ms=3)
    loaded = ItemTable(DIM, seed=1, admission_count=2)
    loaded.load(table.all_rows())
    loaded.load_waiting(table.waiting())
    for each in (table, loaded):
        each.observe(keys(4), seen_ms=8)
    assert loaded.has(keys(4, 5, 6)).tolist() == [True, True, False]
    assert_same(table.all_rows(), loaded.all_rows())
    assert loaded.waiting().counts.tolist() == [1]


def test_an_item_that_was_not_seen_for_long_is_forgotten_and_begins_anew_when_it_comes_back() -> None:
    table = ItemTable(DIM, seed=1, keep_ms=80)
    table.add_features(keys(-7))
    table.observe(keys(1, 2, 2), seen_ms=1000)
    train_rows(table, 0, keys(-7, 1, 2))
    kept = table.lookup(keys(-7, 2))[0].detach().clone()
    table.observe(keys(2), seen_ms=1075)
    assert table.all_items().tolist() == [1, 2], "1 may be seen within the time still"
    table.observe(keys(2, 3), seen_ms=1095)
    assert table.all_items().tolist() == [2, 3]
    assert not table.has(keys(1)).any()
    assert table.counts(keys(1, 2, 3)).tolist() == [0, 4, 1]
    torch.testing.assert_close(table.lookup(keys(-7, 2))[0].detach(), kept, rtol=0, atol=0)
    table.observe(keys(1), seen_ms=1096)
    fresh = ItemTable(DIM, seed=1)
    fresh.observe(keys(1), seen_ms=0)
    torch.testing.assert_close(table.lookup(keys(1))[0], fresh.lookup(keys(1))[0])
    assert set(table.sample_items(100, np.random.default_rng(0), DrawLaw(power=0.5)).tolist()) == {1, 2, 3}


def test_nothing_is_forgotten_where_no_time_is_set() -> None:
    table = ItemTable(DIM)
    table.observe(keys(1), seen_ms=1)
    table.observe(keys(2), seen_ms=10**15)
    assert table.all_items().tolist() == [1, 2]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 40)), max_size=12),
    st.data(),
)
def test_what_is_forgotten_does_not_depend_on_where_a_run_was_stopped(
    sightings: list[tuple[list[int], int]], data: st.DataObject
) -> None:
    def run(table: ItemTable, part: list[tuple[list[int], int]], time_ms: int) -> int:
        for seen, later_ms in part:
            time_ms += later_ms
            table.observe(keys(*seen), time_ms)
            train_rows(table, 0, table.all_items())
        return time_ms

    stop = data.draw(st.integers(0, len(sightings)))
    whole, before, after = (ItemTable(DIM, seed=2, admission_count=2, keep_ms=50) for _ in range(3))
    run(whole, sightings, 5000)
    time_ms = run(before, sightings[:stop], 5000)
    after.load(before.all_rows())
    after.load_waiting(before.waiting())
    run(after, sightings[stop:], time_ms)
    assert_same(whole.all_rows(), after.all_rows())
    for column, resumed in zip(whole.waiting(), after.waiting(), strict=True):
        assert column.tolist() == resumed.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-20, 20), unique=True), max_size=6))
def test_sightings_count_like_a_dictionary(rounds: list[list[int]]) -> None:
    seen, expected, last = Sightings(), dict[int, int](), dict[int, int]()
    for time, seen_keys in enumerate(rounds):
        ordered = keys(*sorted(seen_keys))
        seen.add(ordered, np.full(len(ordered), time + 1), time)
        for key in seen_keys:
            expected[key] = expected.get(key, 0) + time + 1
            last[key] = time
    everything = np.arange(-21, 22)
    counts, times = seen.of(everything)
    assert counts.tolist() == [expected.get(int(key), 0) for key in everything]
    assert times.tolist() == [last.get(int(key), 0) for key in everything]
    assert seen.total == sum(expected.values())
    assert seen.keys.tolist() == sorted(expected)
