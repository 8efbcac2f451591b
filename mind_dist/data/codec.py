"""Outside ids and bytes ↔ inside keys and events: the one boundary where ids change form.

An int64 id is its own key; a string id is its xxh3-64 fingerprint. Nothing further inside asks which it was.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mind_dist.records import Keys

IdType = Literal["int64", "string"]
"""What user and item ids are outside; one choice per deployment."""


def fingerprint(text: str) -> int:
    """Return the xxh3-64 fingerprint of a text as a signed 64-bit integer."""
    unsigned = xxhash.xxh3_64_intdigest(text.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def feature_key(feature: str, value: object) -> int:
    """Return the key of one value of one item or user feature; features never share keys."""
    return fingerprint(f"{feature}\x1f{value}")


def mix(keys: Keys) -> NDArray[np.uint64]:
    """Scatter keys evenly over 64 bits (the splitmix64 finaliser); the same on every machine and run."""
    with np.errstate(over="ignore"):
        bits = keys.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def partition_of(keys: Keys, num_partitions: int) -> Keys:
    """Return the bucket or shard of each key: its scattered bits modulo the number of partitions."""
    return (mix(keys) % np.uint64(num_partitions)).astype(np.int64)
