"""Metrics of each user: longer lists, and the categories of a history."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.measuring import num_categories, split_metrics
from mind_dist.evaluation import HeldOut, held_out
from mind_dist.records import BehaviorSequence, no_keys
from tests.toy_quality import write_quality_dataset


def test_recall_is_taken_of_longer_lists() -> None:
    future = BehaviorSequence(1, np.array([10, 150, 450, 900]), np.arange(4))
    user = HeldOut(BehaviorSequence(1, no_keys(), no_keys()), future)
    found = split_metrics([np.arange(500)], [user])
    recalls = {name: values.tolist() for name, values in found.items() if name.startswith("recall")}
    expected = {20: 0.25, 50: 0.25, 100: 0.25, 200: 0.5, 500: 0.75}
    assert recalls == {f"recall@{limit}": [value] for limit, value in expected.items()}


def test_categories_of_a_history_count_once(tmp_path: Path) -> None:
    dataset = write_quality_dataset(tmp_path)
    catalog, users = dataset.catalog(), held_out(dataset)
    names = dict(zip(catalog.keys.tolist(), catalog.table["categories"].to_pylist(), strict=True))
    expected = [len({name for key in user.history.item_keys.tolist() for name in names[key]}) for user in users]
    assert num_categories(users, catalog, "categories").tolist() == expected
    assert len(set(expected)) > 1
