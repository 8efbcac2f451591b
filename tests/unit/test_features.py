"""Metadata → feature keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.config import FeatureConfig, MetadataConfig
from mind_dist.dataset.continuous import CLIP
from mind_dist.dataset.features import (
    Features,
    bags,
    feature_values,
    no_features,
    profiles,
    quantile_boundaries,
    read_features,
)
from mind_dist.dataset.parquet import FeatureInfo
from mind_dist.keys import IdType, feature_key, fingerprint


def read(path: Path, keys: list[int], *features: FeatureConfig, id_type: IdType = "int64", **columns: Any) -> Features:
    pq.write_table(pa.table(columns), path / "items.parquet")
    config = MetadataConfig((str(path / "items.parquet"),), features=features, columns=("title",))
    return read_features(config, "item_id", id_type, np.array(keys, dtype=np.int64))


def test_features_are_aligned_with_the_keys_and_missing_ones_are_empty(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [1, 2, 3],
        FeatureConfig("color", column="c"),
        FeatureConfig("tags", kind="categories"),
        item_id=[3, 1, 3, None],
        c=["red", "blue", "ignored", "x"],
        tags=["a|b | |a", None, "z", "x"],
        title=["three", "one", "again", "none"],
    )
    red, blue = feature_key("color", "red"), feature_key("color", "blue")
    tags = sorted([feature_key("tags", "a"), feature_key("tags", "b")])
    assert bags(found, 3).to_pylist() == [[blue], [], [red, *tags]]
    assert {name: column.to_pylist() for name, column in found.columns.items()} == {
        "color": ["blue", None, "red"],
        "tags": [[], [], ["a", "b", "a"]],
        "title": ["one", None, "three"],
    }


def test_numbers_are_cut_into_quantiles_and_dirty_ones_are_missing(tmp_path: Path) -> None:
    years = ["1990", "1991", "1992", "1993", "?", None]
    feature = FeatureConfig("year", kind="buckets", num_buckets=2)
    found = read(tmp_path, [0, 1, 2, 3, 4, 5], feature, item_id=range(6), year=years, title=years)
    assert found.infos == (FeatureInfo("year", "buckets", (1991.5,)),)
    low, high = feature_key("year", 0), feature_key("year", 1)
    assert bags(found, 6).to_pylist() == [[low], [low], [high], [high], [], []]
    assert found.columns["year"].to_pylist() == [1990, 1991, 1992, 1993, None, None]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True), st.integers(2, 10))
def test_distinct_values_spread_over_the_buckets_evenly(values: list[float], num_buckets: int) -> None:
    boundaries = quantile_boundaries(pa.array(values), num_buckets)
    sizes = np.bincount(np.searchsorted(boundaries, values), minlength=num_buckets)
    assert sizes.max() <= len(values) / num_buckets + 1


def test_equal_values_share_a_bucket_and_no_values_need_none() -> None:
    assert quantile_boundaries(pa.array([5.0] * 9 + [7.0]), 4) == (5.0,)
    assert quantile_boundaries(pa.array([], pa.float64()), 4) == ()


def test_continuous_numbers_are_standardised_by_what_training_sees_and_dirty_ones_are_missing(tmp_path: Path) -> None:
    prices = [10.0, 20.0, 30.0, 1e9, float("inf"), float("nan"), None]
    pq.write_table(pa.table({"item_id": range(7), "price": prices}), tmp_path / "items.parquet")
    features = (
        FeatureConfig("price", kind="continuous", bucketed=True, num_buckets=2),
        FeatureConfig("size", column="price"),
    )
    config = MetadataConfig((str(tmp_path / "items.parquet"),), features=features)
    keys, seen = np.arange(7), np.array([1, 1, 1, 0, 1, 1, 1], np.bool_)
    found = read_features(config, "item_id", "int64", keys, in_train=seen)
    (price, _), (values,) = found.infos, found.values
    assert (price.kind, price.boundaries) == ("continuous", (20.0,))
    assert price.mean == pytest.approx(20.0)
    np.testing.assert_allclose(
        values[:4], [(10 - 20) / price.deviation, 0, (30 - 20) / price.deviation, CLIP], atol=1e-6
    )
    assert np.isnan(values[4:]).all()
    assert feature_values(found).to_pylist()[3:5] == [[CLIP], [None]]
    buckets = found.keys[found.keys["feature"] == 0]
    assert buckets["row"].tolist() == [0, 1, 2, 3]
    assert buckets["key"].tolist() == [feature_key("price", bucket) for bucket in (0, 0, 1, 1)]
    _, coverage, _ = found.coverage
    counts = (coverage.num_matched, coverage.num_missing, coverage.num_unusable, coverage.num_clipped)
    assert counts == (4, 2, 1, 1), "of infinite numbers prepare says that they cannot be used"
    assert found.columns["price"].to_pylist() == [10.0, 20.0, 30.0, 1e9, None, None, None], "filters have the raw ones"


def test_a_number_alone_has_no_keys_and_times_are_numbers(tmp_path: Path) -> None:
    released = pa.array([0, 86_400_000, None], pa.timestamp("ms", "UTC"))
    feature = FeatureConfig("released", kind="continuous")
    found = read(tmp_path, [0, 1, 2], feature, item_id=range(3), released=released, title=["a"] * 3)
    assert not len(found.keys)
    assert found.infos[0].mean == pytest.approx(43_200_000)
    assert found.values[0][:2].tolist() == pytest.approx([-1.02, 1.02], abs=0.01)


def test_words_of_a_text_are_keys_whatever_their_case(tmp_path: Path) -> None:
    texts = ["Red  SHOES, (men's) 42", "", "größe Größe", None]
    found = read(tmp_path, [0, 1, 2, 3], FeatureConfig("t", kind="words"), item_id=range(4), t=texts, title=texts)
    words = [["red", "shoes", "men's", "42"], [], ["größe"], []]
    assert bags(found, 4).to_pylist() == [sorted(feature_key("t", word) for word in each) for each in words]
    assert found.columns["t"].to_pylist() == texts


def test_profiles_have_one_key_a_feature_and_0_where_missing(tmp_path: Path) -> None:
    names = (FeatureConfig("a"), FeatureConfig("b"))
    found = read(tmp_path, [1, 2], *names, item_id=[1], a=[""], b=[4], title=["x"])
    assert profiles(found, 2).to_pylist() == [[0, feature_key("b", "4")], [0, 0]]


def test_string_ids_are_found_by_fingerprint(tmp_path: Path) -> None:
    found = read(tmp_path, [fingerprint("b")], id_type="string", item_id=["a", "b"], title=["A", "B"])
    assert found.columns["title"].to_pylist() == ["B"]
    assert bags(found, 1).to_pylist() == [[]]


def test_metadata_without_rows_leaves_everything_missing(tmp_path: Path) -> None:
    found = read(tmp_path, [1], item_id=pa.array([], pa.int64()), title=pa.array([], pa.string()))
    assert found.columns["title"].to_pylist() == [None]


def test_without_metadata_bags_and_profiles_are_empty() -> None:
    assert bags(no_features(), 2).to_pylist() == profiles(no_features(), 2).to_pylist() == [[], []]
