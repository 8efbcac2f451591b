"""Pairs of the same users over seeds and splits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cells import Cell, Outcome
from benchmarks.quality import Quality
from benchmarks.tables import compared
from benchmarks.variants import paired_per_user


def outcome(users: list[int], recalls: list[float]) -> Outcome:
    rows = [{"dataset": "toy", "history": "kept"}]
    curves = {"kept": {"interest": [[0.0, 1.0, 0.5]]}}
    return Outcome(rows, curves, {"kept": {"recall@50": np.array(recalls)}}, users, "code")


def test_pairs_are_of_one_user_means_over_seeds_split_after_split() -> None:
    first = [outcome([9, 2], [0.4, 0.1]), outcome([2, 9], [0.3, 0.6]), outcome([5, 4], [1.0, 0.0])]
    second = [outcome([4, 5], [0.7, 0.8]), outcome([2, 9], [0.0, 0.9])]
    values, others = paired_per_user(first, second, "kept", "recall@50")
    assert values == pytest.approx([0.2, 0.5, 0.0, 1.0])
    assert others == pytest.approx([0.0, 0.9, 0.7, 0.8])


def test_a_split_that_only_one_was_measured_on_is_left_out() -> None:
    both, alone = outcome([1, 2], [0.5, 0.7]), outcome([3, 4], [0.0, 0.0])
    values, others = paired_per_user([both, alone], [both], "kept", "recall@50")
    assert values.tolist() == others.tolist() == [0.5, 0.7]
    assert [len(each) for each in paired_per_user([both], [alone], "kept", "recall@50")] == [0, 0]


def test_comparisons_count_the_users_of_all_splits_and_skip_what_has_none_in_common() -> None:
    found = {
        Cell("toy", "best", 4, 17, split=1230): outcome([1, 2], [0.5, 0.7]),
        Cell("toy", "best", 4, 17, split=7): outcome([2, 3], [0.4, 0.4]),
        Cell("toy", "ease", split=1230): outcome([2, 1], [0.2, 0.1]),
        Cell("toy", "ease", split=7): outcome([2, 3], [0.1, 0.1]),
        Cell("toy", "sasrec"): outcome([1, 2], [0.1, 0.1]),
        Cell("toy", "itemknn", split=8): outcome([4, 5], [0.1, 0.1]),
    }
    assert {each["other"]: (each["num_users"], round(each["mean"], 3)) for each in compared(found)} == {
        "ease": (4, 0.375),
        "sasrec": (2, 0.5),
    }


def test_every_cell_is_measured_on_every_split() -> None:
    cells = Quality(recipes=("best",), interests=(4,), floors=("ease",), splits=(1230, 7)).cells()
    assert [(cell.recipe, cell.split) for cell in cells] == [("ease", 1230), ("ease", 7), ("best", 1230), ("best", 7)]
    with pytest.raises(ValueError, match="splits must be seeds"):
        Quality(splits=())
    with pytest.raises(ValueError, match="leave-one-out has everybody in one"):
        Quality(protocol="leave-one-out", splits=(7,))
