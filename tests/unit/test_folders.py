"""A stranger's folder of Parquet files: what is found there, what is made of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.dataset_info import DATASETS
from benchmarks.datasets import metadata_of, prepare_config
from benchmarks.folders import info_of, names_in
from benchmarks.quality import Quality
from mind_dist.config import FeatureConfig
from mind_dist.errors import ConfigError


def write(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def write_log(path: Path, lengths: tuple[int, ...] = (8,), **changed: Any) -> None:
    users = np.repeat(np.arange(len(lengths)), lengths)
    columns = {"user_id": users, "item_id": users % 3, "timestamp": 1_700_000_000 + np.arange(len(users))}
    write(path, **columns | changed)


@pytest.fixture(autouse=True)
def _forget() -> None:
    info_of.cache_clear()


def test_every_log_of_a_folder_is_a_dataset(tmp_path: Path) -> None:
    for name in ("shop.parquet", "shop.items.parquet", "film.parquet", "README.md"):
        (tmp_path / name).touch()
    assert names_in(str(tmp_path)) == ("film", "shop")
    assert {cell.dataset for cell in Quality(data=str(tmp_path)).cells()} == {"film", "shop"}


def test_known_datasets_are_measured_as_the_docs_say(tmp_path: Path) -> None:
    assert info_of("ml1m", str(tmp_path)) == DATASETS["ml1m"]


@pytest.mark.parametrize(
    ("lengths", "length"), [((8, 9, 12, 40), 20), ((60, 70, 80, 90), 100), ((900, 900), 200), ((1, 2), 20)]
)
def test_histories_are_as_long_as_those_of_three_of_four_users(
    tmp_path: Path, lengths: tuple[int, ...], length: int
) -> None:
    write_log(tmp_path / "shop.parquet", lengths)
    assert info_of("shop", str(tmp_path)).max_behaviors == length


def test_numbers_before_1995_are_positions_and_no_times(tmp_path: Path) -> None:
    write_log(tmp_path / "film.parquet", timestamp=np.arange(8))
    write_log(tmp_path / "shop.parquet")
    write_log(tmp_path / "news.parquet", timestamp=pa.array(range(8), pa.timestamp("ms")))
    assert [info_of(name, str(tmp_path)).time_unit for name in ("film", "shop", "news")] == ["order", "auto", "auto"]


def test_columns_of_items_become_features_by_what_they_hold(tmp_path: Path) -> None:
    write_log(tmp_path / "shop.parquet")
    write(
        tmp_path / "shop.items.parquet",
        item_id=[0, 1, 2, 3],
        code=["A1", "B2", "C3", "D4"],
        title=["Red mug", "Red plate, large", "Mug", None],
        tags=["a|b", "b", None, "a"],
        sizes=[["S", "M"], [], ["M"], None],
        shelf=[7, 7, 8, 8],
        empty=pa.nulls(4, pa.string()),
        **{"Price (£)": [1.5, 2.0, None, 9.0], "genre": ["x", "x", "y", "y"]},
    )
    info = info_of("shop", str(tmp_path))
    assert info.features == (
        FeatureConfig("title", "categories", "title", " "),
        FeatureConfig("tags", "categories", "tags", "|"),
        FeatureConfig("sizes", "categories", "sizes"),
        FeatureConfig("shelf", column="shelf"),
        FeatureConfig("Price", "buckets", "Price (£)"),
        FeatureConfig("genre", column="genre"),
    )
    assert info.category == "genre"
    assert metadata_of("shop", str(tmp_path)).features == info.features


def test_texts_may_be_ids(tmp_path: Path) -> None:
    write_log(tmp_path / "shop.parquet", user_id=list("aabbccdd"))
    write_log(tmp_path / "film.parquet")
    types = [prepare_config(name, str(tmp_path), "out").id_type for name in ("shop", "film")]
    assert types == ["string", "int64"]


def test_nothing_known_of_the_items_is_no_feature(tmp_path: Path) -> None:
    write_log(tmp_path / "shop.parquet")
    info = info_of("shop", str(tmp_path))
    assert (info.features, info.category) == ((), "")
    assert not metadata_of("shop", str(tmp_path)).paths


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"timestamp": ["2024-01-01"] * 8},
            "timestamp of .*shop.parquet is string: ids are integers or texts, times integers",
        ),
        ({"user_id": np.arange(8.0)}, "user_id of .*shop.parquet is double"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_log(tmp_path / "shop.parquet", **changed)
    with pytest.raises(ConfigError, match=message):
        info_of("shop", str(tmp_path))


def test_anything_else_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no folder"):
        names_in("nowhere")
    with pytest.raises(ConfigError, match=r"holds no NAME\.parquet with user_id, item_id and timestamp"):
        names_in(str(tmp_path))
    with pytest.raises(ConfigError, match=r"shop needs the folder that holds shop\.parquet"):
        info_of("shop", str(tmp_path))
    (tmp_path / "shop.parquet").write_text("user,item\n1,2\n")
    with pytest.raises(ConfigError, match=r"shop\.parquet is no Parquet file"):
        info_of("shop", str(tmp_path))
    write(tmp_path / "shop.parquet", user=[1], item_id=[2], timestamp=[3])
    with pytest.raises(ConfigError, match=r"shop\.parquet has no column user_id, but user, item_id, timestamp"):
        info_of("shop", str(tmp_path))
    write_log(tmp_path / "shop.parquet")
    write(tmp_path / "shop.items.parquet", sku=[1])
    with pytest.raises(ConfigError, match=r"shop\.items\.parquet has no column item_id, but sku"):
        info_of("shop", str(tmp_path))
