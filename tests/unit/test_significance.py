"""How sure a difference is, alone and among many."""

from __future__ import annotations

import numpy as np
import pytest

from mind_dist.evaluation import significance
from mind_dist.evaluation.significance import corrected, holm, paired_bootstrap


def test_holm_gives_what_r_gives() -> None:
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    by_r = [
        0.0015,
        0.0056,
        0.0247,
        0.1140,
        0.2211,
        0.2780,
        0.2780,
        0.2780,
        0.3213,
        1,
        1,
        1,
        1,
        1,
        1,
    ]  # p.adjust(p, "holm")
    assert holm(p) == pytest.approx(by_r)
    assert holm(p[::-1]) == pytest.approx(by_r[::-1])
    assert holm([]) == []


def test_equal_ones_stay_equal_and_one_alone_stays_as_it_is() -> None:
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    assert holm([0.03]) == [0.03]


def test_every_comparison_of_a_report_is_corrected_for_all_of_them() -> None:
    found = corrected([{"metric": "recall@50", "p": 0.03}, {"metric": "hit@50", "p": 0.01}])
    assert [(each["metric"], each["p"], each["p_holm"]) for each in found] == [
        ("recall@50", 0.03, 0.03),
        ("hit@50", 0.01, 0.02),
    ]


def test_a_difference_of_chance_is_told_from_one_that_is_none() -> None:
    generator = np.random.default_rng(5)
    noise = generator.normal(size=400)
    assert paired_bootstrap(noise, np.zeros(400)).p > 0.05
    assert paired_bootstrap(noise + 0.3, np.zeros(400)).p < 0.001


def test_paired_bootstrap_tells_a_shift_from_noise() -> None:
    generator = np.random.default_rng(1)
    first, noise = generator.normal(size=400), generator.normal(size=400)
    shifted = paired_bootstrap(first + 0.2 + 0.1 * noise, first)
    assert shifted.low < shifted.mean < shifted.high
    assert shifted.p < 0.01
    assert paired_bootstrap(first, first + 0.1 * (noise - noise.mean())).p > 0.9
    assert paired_bootstrap(first, first).p == 1


def test_the_normal_interval_of_many_users_is_that_of_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    first, second = generator.exponential(size=2_000) + 0.05, generator.exponential(size=2_000)
    resampled = paired_bootstrap(first, second)
    monkeypatch.setattr(significance, "_MOST_RESAMPLED", 0)
    normal = paired_bootstrap(first, second)
    assert (normal.mean, normal.low, normal.high) == pytest.approx(
        (resampled.mean, resampled.low, resampled.high), abs=0.003
    )
    assert normal.p == pytest.approx(resampled.p, abs=0.01)
    assert paired_bootstrap(first, first).p == 1
    assert paired_bootstrap(first + 1, first).p == resampled_least()


def resampled_least() -> float:
    return 2.0 / significance.NUM_RESAMPLES
