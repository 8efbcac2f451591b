"""A user's raw profile → the keys by which a model version knows it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mind_dist.dataset.parquet import FeatureInfo
from mind_dist.keys import feature_key, value_text
from mind_dist.records import Keys


def profile_keys(features: Sequence[FeatureInfo], profile: Mapping[str, Any]) -> Keys:
    """Return one key a feature, 0 where the profile has no usable value of it.

    The same values as in a prepared dataset give the same keys.

    Args:
        features: What the version reads.
        profile: Raw values by the features' names: texts, numbers, booleans.
    """
    return np.array([_key(info, profile.get(info.name)) for info in features], dtype=np.int64)


def _key(info: FeatureInfo, value: object) -> int:
    if info.kind == "buckets":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0
        return feature_key(info.name, bisect.bisect_left(info.boundaries, value))
    text = value_text(value)
    return feature_key(info.name, text) if text else 0
