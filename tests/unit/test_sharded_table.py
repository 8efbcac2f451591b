"""An item table dealt out to ranks: each has its rows alone, and together they are what one rank would have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.checkpoint import TableRows
from mind_dist.keys import partition_of
from mind_dist.records import Keys
from mind_dist.training.collectives import Collectives
from mind_dist.training.item_table import ItemTable
from mind_dist.training.sparse_rows import initial_rows
from tests.thread_ranks import together

DIM, ITEMS, STEPS = 5, 40, 6


def touched(step: int, part: int) -> Keys:
    """Return what one of six parts of a step's batch looks up: some items in several parts, and some parts without any."""
    draw = np.random.default_rng([step, part])
    return np.sort(draw.choice(ITEMS, size=int(draw.integers(0, 12)), replace=False)).astype(np.int64)


def filled(ranks: Collectives) -> ItemTable:
    table = ItemTable(DIM, seed=3, collectives=ranks)
    table.set_counts(np.arange(ITEMS), np.arange(1, ITEMS + 1), seen_ms=7)
    table.add_features(np.array([900, 901]))
    return table


def train(table: ItemTable, ranks: Collectives, steps: range) -> None:
    """Train with gradients that follow from step and part of the batch; a rank has the parts that are dealt to it."""
    for step in steps:
        mine = [touched(step, part) for part in range(ranks.rank, 6, ranks.world_size)]
        keys = np.unique(np.concatenate(mine))
        rows, (num_keys,) = table.lookup(keys, also=[len(keys)])
        assert num_keys == sum(ranks.gather_objects(len(keys)))
        for part in mine:
            at = torch.from_numpy(np.searchsorted(keys, part))
            target = initial_rows(part, DIM, seed=100 * step)
            (ranks.world_size * ((rows[at] - target) ** 2).sum()).backward(retain_graph=True)
        table.apply_gradients(0.05)


def assert_close(left: TableRows, right: TableRows, tolerance: float) -> None:
    for column in dataclasses.fields(TableRows):
        one, other = (getattr(each, column.name) for each in (left, right))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=column.name)


def trained(num_ranks: int) -> TableRows:
    def work(ranks: Collectives) -> TableRows:
        table = filled(ranks)
        train(table, ranks, range(STEPS))
        return table.all_rows()

    first, *others = together(num_ranks, work)
    for other in others:
        assert_close(first, other, 0)
    return first


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_ranks_learn_the_rows_that_one_rank_learns(num_ranks: int) -> None:
    assert_close(trained(1), trained(num_ranks), 1e-6)


def test_a_rank_has_its_own_rows_alone() -> None:
    def work(ranks: Collectives) -> list[int]:
        table = filled(ranks)
        train(table, ranks, range(STEPS))
        parts = list(table.own_rows())
        keys = np.concatenate([part.keys for part in parts])
        assert (partition_of(keys, ranks.world_size) == ranks.rank).all()
        assert len(table._rows) <= len(keys)
        return [int(key) for key in keys]

    found = together(3, work)
    assert sorted(key for keys in found for key in keys) == list(range(ITEMS))
    assert all(5 < len(keys) < 25 for keys in found)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_any_number_of_ranks_goes_on_where_any_other_was_stopped(numbers: list[int]) -> None:
    saved: list[TableRows] = []
    for stage, num_ranks in enumerate(numbers):

        def work(ranks: Collectives, stage: int = stage, before: Sequence[TableRows] = saved) -> list[TableRows]:
            table = filled(ranks)
            for part in before:
                table.load(part)
            train(table, ranks, range(3 * stage, 3 * stage + 3))
            return list(table.own_rows())

        saved = [part for parts in together(num_ranks, work) for part in parts]

    def straight(ranks: Collectives) -> TableRows:
        table = filled(ranks)
        train(table, ranks, range(3 * len(numbers)))
        return table.all_rows()

    whole = TableRows.concatenate(saved)
    (expected,) = together(1, straight)
    assert_close(whole.take(np.argsort(whole.keys)), expected, 1e-5)


def test_what_is_seen_on_any_rank_counts_on_all_and_draws_do_not_depend_on_their_number() -> None:
    def work(ranks: Collectives) -> tuple[list[int], list[int], list[int]]:
        table = ItemTable(DIM, admission_count=2, collectives=ranks)
        for step in range(4):
            mine = [touched(step, part) for part in range(ranks.rank, 6, ranks.world_size)]
            table.observe(np.concatenate(mine), seen_ms=step)
        waiting = sorted(key for part in ranks.gather_objects(table.waiting()) for key in part.keys.tolist())
        drawn = table.sample_items(50, np.random.default_rng(1)).tolist()
        return drawn, waiting, table.all_items().tolist()

    (one,) = together(1, work)
    assert all(found == one for num_ranks in (2, 3) for found in together(num_ranks, work))
    assert one[1], "some items were seen once"
