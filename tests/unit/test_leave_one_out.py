"""The leave-one-out protocol: what is trained on, shown and to be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.leave_one_out import MAX_INPUT, leave_one_out
from benchmarks.measuring import leave_one_out_metrics
from benchmarks.tasks import Part, Task
from mind_dist.dataset.parquet import PreparedDataset
from tests.toy_quality import SPLITS, write_quality_dataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leave-one-out")
    write_quality_dataset(path / "ml1m-all")
    return path


@pytest.fixture(scope="module")
def task(cache: Path) -> Task:
    return leave_one_out("ml1m", "", cache)


@pytest.mark.parametrize(("part", "left_out"), [("valid", 2), ("test", 1)])
def test_a_target_and_what_follows_it_are_not_trained_on(cache: Path, task: Task, part: Part, left_out: int) -> None:
    stage, everything = task.stage(part), PreparedDataset.open(str(cache / "ml1m-all"))
    sequences = {each.user_key: each.item_keys.tolist() for each in everything.sequences("train")}
    trained = {each.user_key: each.item_keys.tolist() for each in stage.dataset.sequences("train")}
    assert trained == {user: items[:-left_out] for user, items in sequences.items()}
    assert len(stage.users) == SPLITS["train"]
    for user in stage.users:
        items = sequences[user.history.user_key]
        assert user.history.item_keys.tolist() == items[:-left_out][-MAX_INPUT:]
        assert user.targets.tolist() == [items[-left_out]]


def test_popularity_comes_from_what_is_trained_on(task: Task) -> None:
    for stage in (task.choosing, task.reporting):
        items = np.concatenate([each.item_keys for each in stage.dataset.sequences("train")])
        keys = stage.catalog.keys.tolist()
        assert stage.catalog.counts.tolist() == [int((items == key).sum()) for key in keys]
        assert stage.dataset.manifest.num_events["train"] == len(items)


def test_metrics_of_one_target(task: Task) -> None:
    users = task.reporting.users[:3]
    others = np.arange(10_000, 10_300)
    targets = [user.targets for user in users]
    ranked = [
        np.concatenate([targets[0], others]),
        np.concatenate([others[:9], targets[1], others[9:]]),
        np.concatenate([others[:100], targets[2], others[100:]]),
    ]
    found = leave_one_out_metrics(ranked, users)
    assert found["hr@10"].tolist() == [1, 1, 0]
    assert found["hr@50"].tolist() == [1, 1, 0]
    assert found["hr@200"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found["ndcg@10"], [1, 1 / np.log2(11), 0])
