"""Numbers → continuous features."""

from __future__ import annotations

import math
import statistics
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.dataset.continuous import CLIP, Standard

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.none() | NUMBERS, max_size=30), st.sampled_from(["linear", "log"]))
def test_any_numbers_become_finite_ones_within_bounds_and_nulls_stay_missing(
    values: list[float | None], scale: str
) -> None:
    column = pa.array(values, pa.float64())
    standard = Standard.fit(column, "log" if scale == "log" else "linear")
    assert math.isfinite(standard.mean)
    assert math.isfinite(standard.deviation)
    assert standard.deviation > 0
    found, _ = standard.apply(column)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), [value is None for value in values])
    assert bool((np.abs(found[~np.isnan(found)]) <= CLIP).all())


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30, unique=True))
def test_the_order_of_numbers_is_kept(values: list[float]) -> None:
    for scale in ("linear", "log"):
        column = pa.array(sorted(values))
        found, _ = Standard.fit(column, scale).apply(column)
        assert bool((np.diff(found) >= 0).all())


def test_the_bulk_of_the_numbers_has_mean_0_and_deviation_1_whatever_the_tails() -> None:
    bulk = np.random.default_rng(1).normal(20, 3, size=5000)
    found, num_clipped = Standard.fit(pa.array([*bulk, 1e12]), "linear").apply(pa.array([*bulk, 1e12]))
    assert num_clipped == 1
    assert found[-1] == CLIP
    assert statistics.fmean(found[:-1]) == pytest.approx(0, abs=0.05)
    assert statistics.pstdev(found[:-1]) == pytest.approx(1, abs=0.05)


def test_the_logarithm_tells_small_prices_apart_beside_large_ones() -> None:
    prices = pa.array([1.0, 10.0, 100.0, 1000.0, 10000.0])
    steps = np.diff(Standard.fit(prices, "log").apply(prices)[0])
    assert steps.max() < 1.5 * steps.min()
    signed, _ = Standard.fit(pa.array([-100.0, 0.0, 100.0]), "log").apply(pa.array([-100.0, 0.0, 100.0]))
    assert signed[0] == -signed[2]
    assert signed[1] == 0


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.0, 1.7e12, sys.float_info.max])
def test_equal_numbers_are_zeros_and_another_one_later_is_bounded(constant: float) -> None:
    standard = Standard.fit(pa.array([constant] * 7), "linear")
    assert standard.apply(pa.array([constant, -sys.float_info.max]))[0].tolist() == pytest.approx([0, -CLIP], abs=1e-3)


def test_a_number_that_nearly_all_items_share_leaves_the_others_told_apart() -> None:
    discounts = pa.array([0.0] * 997 + [10.0, 20.0, 30.0])
    found, _ = Standard.fit(discounts, "linear").apply(discounts)
    assert found[0] == pytest.approx(0, abs=0.1)
    assert found[997] > 3


def test_no_numbers_give_a_standard_that_leaves_numbers_as_they_are() -> None:
    assert Standard.fit(pa.nulls(3, pa.float64()), "log") == Standard("log")
    assert Standard().apply(pa.array([2, None], pa.int64()))[0].tolist()[0] == 2.0
