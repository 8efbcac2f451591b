"""Several interests against one: which pairs, over whom, and that a report has them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cell, Outcome
from benchmarks.measuring import PerUser
from benchmarks.plots import draw
from benchmarks.tables import compared, paired_table, quality_table
from benchmarks.twins import compare, compared_to_one, pairs, thirds, twins_table
from benchmarks.variants import Outcomes, Variant

USERS = [30, 10, 20, 40, 60, 50]


def outcome(cell: Cell, per_user: PerUser) -> Outcome:
    means = {name: float(np.nanmean(values)) for name, values in per_user.items()}
    row = {"dataset": cell.dataset, "recipe": cell.recipe, "k": cell.k, "history": "kept", "train_s": 1.0} | means
    curves = {"recall": [[50.0, means["recall@50"]]], "interest": [[0, 1.0, 0.5]]}
    return Outcome([row], {"kept": curves}, {"kept": per_user}, USERS, "code")


def outcomes(*, ks: tuple[int, ...] = (1, 4), dims: tuple[int, ...] = (0, 16), seeds: int = 2) -> Outcomes:
    """Return outcomes in which K interests find K / 10 of what there is, and cover what one covers."""
    found = {}
    for cell in [Cell("toy", "best", k, seed, dim) for k in ks for dim in dims for seed in range(seeds)]:
        values = np.full(len(USERS), cell.k / 10)
        per_user = {"recall@50": values, "hit@50": values, "num_categories": np.arange(6.0)}
        covered = np.array([0.5, math.nan, 0.5, 0.5, 0.5, 0.5])
        found[cell] = outcome(cell, per_user | {"category_coverage@50": covered})
    return found


def test_pairs_are_of_one_recipe_and_equal_width_or_size() -> None:
    ones = [Variant("best", 1), Variant("best", 1, 16), Variant("two_tower"), Variant("popularity")]
    several = [Variant("best", 4, 16), Variant("best", 2), Variant("mind_paper", 4, 16)]
    assert [tuple(pair) for pair in pairs([*ones, *several])] == [
        (Variant("best", 4, 16), Variant("best", 1, 16)),
        (Variant("best", 4, 16), Variant("best", 1)),  # 4 · 16 is the recipe's own 64
        (Variant("best", 2), Variant("best", 1)),
    ]


def test_thirds_tell_ties_apart_by_user_key() -> None:
    assert [places.tolist() for places in thirds(np.array([3.0, 3, 3, 3, 1, 9, 3]))] == [[4, 0, 1], [2, 3], [6, 5]]
    assert sorted(np.concatenate(thirds(np.array([2.0, 1.0])))) == [0, 1]


def test_compares_those_a_metric_is_defined_for_twice() -> None:
    several, one = np.array([0.6, math.nan, 0.3, 0.9]), np.array([0.2, 0.1, math.nan, 0.3])
    found = compare(several, one)
    assert found["num_users"] == 2
    assert found["ratio"] == pytest.approx(3)
    assert found["mean"] == pytest.approx(0.5)
    assert found["low"] > 0
    assert compare(several, np.full(4, math.nan)) == {}
    assert compare(several, np.zeros(4))["ratio"] is None


def test_twins_are_compared_by_thirds_and_equal_sizes_as_a_whole() -> None:
    found = compared_to_one(outcomes())
    kinds = [(each["dim"], each["other_dim"], each["equal"], each["metric"], each["users"]) for each in found]
    twins = [
        *(("recall@50", users) for users in ("all", "few categories", "some categories", "many categories")),
        *(("hit@50", "all"), ("category_coverage@50", "all")),
    ]
    assert kinds == [
        *((64, 64, "D", *each) for each in twins),
        *((16, 16, "D", *each) for each in twins),
        *((16, 64, "K·D", metric, "all") for metric in ("recall@50", "hit@50")),
    ]
    by_metric = {each["metric"]: each for each in found}
    assert by_metric["recall@50"]["ratio"] == pytest.approx(4)
    assert by_metric["category_coverage@50"]["num_users"] == len(USERS) - 1
    assert [each["num_users"] for each in found[:4]] == [6, 2, 2, 2]


def test_thirds_are_of_users_however_these_are_ordered() -> None:
    found = dict(outcomes(dims=(0,), seeds=1))
    for cell, each in found.items():
        by_category = np.array([0.0, 0, 0, 0, 0.1, 0.2]) * (cell.k - 1)  # the two with the most categories gain
        each.per_user["kept"]["recall@50"] = 0.1 + by_category
    gains = {each["users"]: each["mean"] for each in compared_to_one(found) if each["metric"] == "recall@50"}
    assert gains == pytest.approx({"all": 0.15, "few categories": 0, "some categories": 0, "many categories": 0.45})


def test_one_interest_alone_has_no_twin() -> None:
    assert compared_to_one(outcomes(ks=(1,))) == []
    assert compared_to_one(outcomes(ks=(2, 4), dims=(0,))) == []


def test_tables_keep_widths_apart_and_name_what_is_not_a_recipes_own() -> None:
    found = outcomes(dims=(16, 0))
    table, comparisons = quality_table("toy", found), compared(found)
    assert list(table.columns[0].cells) == ["best D=16", "best", "best D=16", "best"]
    assert {(each["k"], each["dim"]) for each in comparisons} == {(4, 64)}
    assert {(each["other_k"], each["other_dim"]) for each in comparisons} == {(1, 16), (1, 64), (4, 16)}
    paired = paired_table("toy", comparisons)
    assert str(paired.title).startswith("toy: best K=4 against")
    assert set(paired.columns[0].cells) == {"best", "best D=16"}
    assert {each["dim"] for each in compared(outcomes(dims=(8, 16)))} == {8}
    less = list(twins_table("toy", compared_to_one(found)).columns[3].cells)
    assert set(less) == {"K=1", "K=1 D=64"}


def test_capacity_is_drawn_of_several_widths_only(tmp_path: Path) -> None:
    several = {path.name for path in draw(outcomes(), tmp_path)}
    one = {path.name for path in draw(outcomes(dims=(16,)), tmp_path / "one")}
    assert several - one == {"capacity.png"}
    assert "k_sweep.png" in one
