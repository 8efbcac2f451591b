"""`benchmarks.cold_items` on a toy dataset: what was taken out is gone from training, and found by its features alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cold_items import ColdItems, cold_keys, main, users_of, without_items
from mind_dist.evaluation import held_out
from tests.toy_quality import write_quality_dataset


def test_cold_items_are_gone_from_training_and_alone_are_to_be_found(tmp_path: Path) -> None:
    dataset = write_quality_dataset(tmp_path / "whole")
    cold, users = cold_keys(dataset, share=0.1, seed=1), held_out(dataset)
    assert len(cold) == 3
    changed = without_items(dataset, cold, tmp_path / "without", features=False)
    catalog = changed.catalog()
    behaviors = np.concatenate([user.item_keys for user in changed.sequences("train")])
    before = np.concatenate([user.item_keys for user in dataset.sequences("train")])
    np.testing.assert_array_equal(np.sort(behaviors), np.sort(before[~np.isin(before, cold)]))
    np.testing.assert_array_equal(catalog.counts, [(behaviors == key).sum() for key in catalog.keys])
    assert changed.manifest.num_events["train"] == len(behaviors)
    assert not len(catalog.feature_keys)
    assert not changed.manifest.item_features
    asked = users_of(users, cold)
    assert 0 < len(asked) < len(users)
    assert all(np.isin(user.targets, cold).all() for user in asked)


@pytest.mark.parametrize(("recipe", "names"), [("best", 2), ("two_tower", 3)])
def test_what_features_find_is_reported_beside_what_ids_find(recipe: str, names: int, tmp_path: Path) -> None:
    write_quality_dataset(tmp_path / "ml1m")
    output = tmp_path / "cold.json"
    main(ColdItems("ml1m", cache=tmp_path, recipe=recipe, max_steps=20, seeds=(0, 1), output=output))
    found = json.loads(output.read_text())
    assert len(found) == names
    for figures in found.values():
        assert len(figures) == 2, "one a seed"
        assert all(0 <= value <= 1 for each in figures for value in each.values())


def test_with_nothing_taken_out_only_known_items_are_compared(tmp_path: Path) -> None:
    write_quality_dataset(tmp_path / "ml1m")
    output = tmp_path / "known.json"
    main(ColdItems("ml1m", cache=tmp_path, cold_share=0.0, max_steps=20, seeds=(0,), output=output))
    for (figures,) in json.loads(output.read_text()).values():
        assert not any(name.startswith("cold recall") for name in figures)
