"""Which categories diversity and coverage are taken over, and what they come to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest, FeatureInfo
from mind_dist.errors import ConfigError
from mind_dist.evaluation import HeldOut, measure, popularity
from mind_dist.evaluation.categories import Categories, first_that_tell_apart
from mind_dist.records import BehaviorSequence, Candidate
from mind_dist.retrieval.diversity import aggregate

PATHS = [["Beauty", "Skin", "Creams"], ["Beauty", "Skin", "Oils"], ["Beauty", "Hair", "Combs"], ["Beauty", "Hair"], []]


def catalog(**columns: list[Any]) -> ItemCatalog:
    size = len(next(iter(columns.values())))
    keys = list(range(size))
    table = pa.table([keys, [str(key) for key in keys], keys[::-1], [[]] * size], schema=ITEM_SCHEMA)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return ItemCatalog(table)


def manifest(*names: str) -> DatasetManifest:
    bare = DatasetManifest("int64", 1, {}, {}, 5, 0, 1)
    return dataclasses.replace(bare, item_features=(FeatureInfo("year", "buckets"), *map(FeatureInfo, names)))


def test_a_root_that_all_items_share_is_left_out_and_the_levels_below_tell_items_apart() -> None:
    found = Categories.of(catalog(shelf=PATHS), "shelf")
    assert found.left_out == ("Beauty",)
    assert found.indicators.sum(axis=1).tolist() == [2, 2, 2, 1, 0, 0]
    user = HeldOut(*(BehaviorSequence(1, np.array(keys), np.array([0])) for keys in ([0], [3])))
    metrics = measure(popularity(catalog(shelf=PATHS)), [user], catalog(shelf=PATHS), "shelf")
    # of the ten pairs, 0 and 1 share Skin, 2 and 3 share Hair; the item without a category shares none
    assert metrics["diversity@50"] == pytest.approx(0.8)
    assert metrics["category_coverage@50"] == 1.0


def test_a_root_that_nearly_all_items_share_is_left_out_and_one_of_most_is_not() -> None:
    nearly = [["all", "a"], ["all", "b"]] * 20 + [["other", "b"]]
    assert Categories.of(catalog(shelf=nearly), "shelf").left_out == ("all",)
    most = [["all", "a"], ["all", "b"]] * 8 + [["other", "b"]]
    assert Categories.of(catalog(shelf=most), "shelf").left_out == ()


def test_the_first_feature_that_tells_items_apart_is_taken() -> None:
    items = catalog(root=["Beauty"] * 5, kind=["a", "b", "a", None, "b"], brand=["x", "y", "z", "x", "y"])
    found = first_that_tell_apart(items, manifest("root", "kind", "brand"))
    assert found is not None
    assert (found.column, found.left_out) == ("kind", ())
    alone = first_that_tell_apart(items, manifest("root"))
    assert alone is not None
    assert (alone.column, alone.tell_apart) == ("root", False)
    assert first_that_tell_apart(items, manifest()) is None


def test_a_category_of_all_items_that_is_the_only_one_stays() -> None:
    found = Categories.of(catalog(root=["Beauty"] * 5), "root")
    assert found.indicators[:-1].all()
    assert found.left_out == ()


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(ConfigError, match="no column of the item catalog; it has item_id"):
        Categories.of(catalog(root=["a"]), "genre")


def test_serving_mixes_by_what_its_candidates_do_not_all_share() -> None:
    pool = [Candidate(key, 1.0 - key / 10, 0) for key in range(4)]
    chosen = aggregate(pool, PATHS[:4], 2, diversity_weight=1.0)
    assert [candidate.item_key for candidate in chosen] == [0, 2]
