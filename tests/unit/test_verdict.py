"""Whether a model is worth deploying beside its opponents, and what a person is told."""

from __future__ import annotations

import numpy as np
import pytest

from mind_dist.evaluation.verdict import verdict_of

NOISE = np.random.default_rng(3).normal(0, 0.1, (3, 400))
OPPONENTS = {"popularity": 0.1 + NOISE[0], "ItemKNN": 0.3 + NOISE[1]}


def test_a_model_above_the_best_of_its_opponents_is_worth_deploying() -> None:
    found = verdict_of(0.35 + NOISE[2], OPPONENTS)
    assert found.worth_deploying
    assert (found.opponent, found.num_opponents, found.num_users) == ("ItemKNN", 2, 400)
    assert found.difference.mean == pytest.approx(found.model - found.best)
    assert "worth deploying" in found.sentence
    assert "significantly above that of ItemKNN" in found.sentence
    assert "NOT" not in found.sentence


@pytest.mark.parametrize(("model", "how"), [(0.3, "not significantly above"), (0.2, "significantly below")])
def test_a_model_that_is_not_above_them_all_is_not(model: float, how: str) -> None:
    found = verdict_of(model + NOISE[2], OPPONENTS)
    assert not found.worth_deploying
    assert "NOT worth deploying" in found.sentence
    assert f"is {how} that of ItemKNN" in found.sentence
    assert f"p = {found.difference.p:.2g}" in found.sentence
