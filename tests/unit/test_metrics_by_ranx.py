"""Metrics equal ranx, an implementation by others: per user, on random rankings and targets with repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mind_dist.evaluation import metrics
from mind_dist.records import Keys

NUM_USERS, NUM_ITEMS, LENGTH = 200, 80, 60


@pytest.fixture(scope="module")
def users() -> list[tuple[Keys, Keys]]:
    """Rankings and targets: some lists are short, some users have more targets than places, most repeat some."""
    generator = np.random.default_rng(20)
    drawn = [
        (
            generator.permutation(NUM_ITEMS)[: generator.integers(1, LENGTH + 1)],
            generator.integers(0, generator.choice([3, 20, NUM_ITEMS]), generator.integers(1, 40)),
        )
        for _ in range(NUM_USERS)
    ]
    assert sum(len(np.unique(targets)) < len(targets) for _, targets in drawn) > NUM_USERS / 2
    return drawn


@pytest.fixture(scope="module")
def ranx(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.mktemp("ir_datasets")))  # importing it makes folders
        patch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling would take a minute, interpreting takes seconds
        import ranx  # noqa: PLC0415 - after the environment is set

    return ranx


def by_ranx(ranx: Any, users: list[tuple[Keys, Keys]], metric: str) -> list[float]:
    wanted = {f"{user:04}": {str(key): 1 for key in targets} for user, (_, targets) in enumerate(users)}
    given = {
        f"{user:04}": {str(key): 1.0 / place for place, key in enumerate(ranked, start=1)}
        for user, (ranked, _) in enumerate(users)
    }
    values = ranx.evaluate(ranx.Qrels(wanted), ranx.Run(given), metric, return_mean=False)
    return list(np.asarray(values).tolist())


@pytest.mark.parametrize("limit", [1, 20, 50])
def test_hit_rate_equals_ranx(ranx: Any, users: list[tuple[Keys, Keys]], limit: int) -> None:
    ours = [metrics.hit_rate(ranked[:limit], targets) for ranked, targets in users]
    assert ours == by_ranx(ranx, users, f"hit_rate@{limit}")


@pytest.mark.parametrize("limit", [1, 20, 50])
def test_recall_equals_that_of_ranx_over_all_targets_in_place_of_distinct_ones(
    ranx: Any, users: list[tuple[Keys, Keys]], limit: int
) -> None:
    ours = [metrics.recall(ranked[:limit], targets) for ranked, targets in users]
    theirs = by_ranx(ranx, users, f"recall@{limit}")
    converted = [
        recall * len(np.unique(targets)) / len(targets) for recall, (_, targets) in zip(theirs, users, strict=True)
    ]
    assert ours == pytest.approx(converted, rel=1e-12)


@pytest.mark.parametrize("limit", [1, 20, 50])
def test_ndcg_equals_ranx(ranx: Any, users: list[tuple[Keys, Keys]], limit: int) -> None:
    ours = [metrics.ndcg(ranked, targets, limit) for ranked, targets in users]
    assert ours == pytest.approx(by_ranx(ranx, users, f"ndcg@{limit}"), rel=1e-12)
