"""What the datasets of docs/quality.md are measured with; that of others is derived from their files (`folders`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mind_dist.config import FeatureConfig, TimeUnit


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is measured with.

    Attributes:
        max_behaviors: Longest history L: ComiRec's, but 200 of online_retail_ii, whose users buy again what they bought
            long ago (ItemKNN and EASE, tuned, read a hundred).
        category: Feature of the items that diversity and coverage are taken over; empty where there is none.
        features: What the model learns of the items.
        columns: Further columns of the item metadata.
        time_unit: What its times are; several sets know the order of events alone.
        id_type: What its ids are.
    """

    max_behaviors: int
    category: str = ""
    features: tuple[FeatureConfig, ...] = ()
    columns: tuple[str, ...] = ()
    time_unit: TimeUnit = "auto"
    id_type: Literal["int64", "string"] = "int64"


MOVIELENS_100K = "movielens_100k"

_GENRES = FeatureConfig("categories", "categories", separator="|")
_SHELVES = FeatureConfig("categories", "categories", separator=" ")
_WORDS = FeatureConfig("title", "categories", separator=" ")

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        MOVIELENS_100K: DatasetInfo(50, "genres", time_unit="s"),
        "ml1m": DatasetInfo(50, "categories", (_GENRES,), ("title",), "order"),
        "online_retail_ii": DatasetInfo(200, features=(_WORDS,), time_unit="s"),
        "beauty": DatasetInfo(20, "categories", (_SHELVES,), time_unit="order"),
    }
)
"""Name → what it is measured with."""
