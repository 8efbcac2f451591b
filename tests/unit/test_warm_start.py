"""First vectors made of which items follow which."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mind_dist.dataset.item_catalog import IS_COLD
from mind_dist.dataset.parquet import PreparedDataset, write_manifest
from mind_dist.model.item_bag import bag_keys, bag_members, pool_bags
from mind_dist.training.warm_start import count_pairs, first_vectors, positive_information, rows_of_bags
from tests.toy_training import toy_users, write_dataset


@pytest.fixture(scope="module", params=[None, 3], ids=["one block", "blocks of three users"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    path: Path = tmp_path_factory.mktemp("dataset")
    return PreparedDataset.open(write_dataset(path, users_per_block=request.param))


def counted_by_hand() -> Counter[tuple[int, int]]:
    pairs: Counter[tuple[int, int]] = Counter()
    for user in toy_users():
        items = user.item_keys.tolist()
        for place, item in enumerate(items):
            pairs.update((item, later) for later in items[place + 1 : place + 11])
    return pairs


def test_pairs_are_what_follows_within_ten_behaviors(dataset: PreparedDataset) -> None:
    catalog = dataset.catalog()
    before, after, counts = count_pairs(dataset, catalog)
    found = zip(catalog.keys[before].tolist(), catalog.keys[after].tolist(), strict=True)
    assert dict(zip(found, counts.tolist(), strict=True)) == counted_by_hand()


def test_information_is_that_of_plain_loops(dataset: PreparedDataset) -> None:
    catalog, pairs = dataset.catalog(), counted_by_hand()
    total = sum(pairs.values())
    before, after = Counter[int](), Counter[int]()
    for (first, second), count in pairs.items():
        before[first] += count
        after[second] += count
    smoothed = sum(count**0.75 for count in after.values())
    found = positive_information(count_pairs(dataset, catalog), len(catalog)).to_dense()
    for row, first in enumerate(catalog.keys.tolist()):
        for column, second in enumerate(catalog.keys.tolist()):
            expected = 0.0
            if count := pairs[first, second]:
                chance = before[first] / total * after[second] ** 0.75 / smoothed
                expected = max(0.0, math.log(count / total / chance))
            assert found[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_the_bags_of_the_rows_are_the_items_vectors(dataset: PreparedDataset) -> None:
    catalog = dataset.catalog()
    vectors = torch.randn(len(catalog), 6)
    keys, rows = rows_of_bags(catalog, vectors)
    assert bool((np.diff(keys) > 0).all())
    assert set(keys.tolist()) >= set(bag_keys(catalog.keys, catalog).tolist()) - {-3_317_410_127_331_450_271}
    bags = bag_members(catalog.keys, catalog, keys)
    torch.testing.assert_close(pool_bags(rows, bags.members, bags.mask), vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("separate", [True, False])
def test_items_that_follow_each_other_begin_close(dataset: PreparedDataset, separate: bool) -> None:
    catalog = dataset.catalog()
    keys, rows = first_vectors(dataset, 8, separate=separate, seed=1)
    assert rows.shape == (len(keys), 16 if separate else 8)
    bags = bag_members(catalog.keys, catalog, keys)
    vectors = pool_bags(rows, bags.members, bags.mask)
    scores = vectors[:, :8] @ vectors[:, -8:].T
    same_half = torch.from_numpy((catalog.keys[:, None] > 20) == (catalog.keys > 20))
    assert scores[same_half].mean() > scores[~same_half].mean() + 0.2
    again = first_vectors(dataset, 8, separate=separate, seed=1)
    assert torch.equal(again.vectors, rows)


def test_more_dimensions_than_items_are_filled_with_zeros(dataset: PreparedDataset) -> None:
    _, rows = first_vectors(dataset, 64, separate=False, seed=1)
    assert rows.shape[1] == 64
    assert bool(rows.isfinite().all())
    assert not rows[:, len(dataset.catalog()) :].any()


@pytest.mark.parametrize("by", ["user", "time"])
def test_items_that_training_never_saw_pull_no_feature_down(tmp_path: Path, by: str) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path))
    expected = first_vectors(dataset, 8, separate=False, seed=1)
    catalog = dataset.catalog().table
    unseen = {"item_id": [900, 901], "original_id": ["900", "901"], "count": [0, 0]}
    features = [catalog["feature_keys"][0].as_py()] * 2
    added = pa.table([*unseen.values(), features], schema=catalog.schema)
    wider = pa.concat_tables([catalog, added])
    if by == "user":
        wider = wider.append_column(IS_COLD, pa.array([False] * len(catalog) + [True] * 2))
    dataset.directory.write_table("items.parquet", wider)
    split = {"by": by, "input_fraction": 0.8}
    write_manifest(dataset.directory, dataclasses.replace(dataset.manifest, split=split))
    found = first_vectors(PreparedDataset.open(dataset.directory.uri), 8, separate=False, seed=1)
    np.testing.assert_array_equal(found.keys, expected.keys)
    assert torch.equal(found.vectors, expected.vectors)
