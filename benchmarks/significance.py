"""Metrics of the same users under two recommenders → how sure their difference is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
_SEED = 1230
_CHUNK = 500
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Difference:
    """A paired bootstrap over users.

    Attributes:
        mean: Mean of the first's metric less the second's.
        low: Lower bound of the mean's 95 % interval.
        high: Upper bound.
        p: Twice the share of resamples whose difference has the other sign, or none.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Compare a metric of the same users, [n] each; always with the same random numbers."""
    differences = first - second
    means = np.concatenate([draw @ differences for draw in _resamples(len(differences))]) / len(differences)
    low, high = np.percentile(means, _INTERVAL)
    least = 1.0 / NUM_RESAMPLES  # so many resamples cannot show less
    p = 2 * max(least, min(float((means <= 0).mean()), float((means >= 0).mean())))
    return Difference(float(differences.mean()), float(low), float(high), min(1.0, p))


@lru_cache(maxsize=8)
def _resamples(num_users: int) -> list[NDArray[np.uint8]]:
    """Return how often each user is drawn in each resample; kept, since comparisons of a dataset share them."""
    generator = np.random.default_rng(_SEED)
    even = np.full(num_users, 1.0 / num_users)
    chunks = (generator.multinomial(num_users, even, size=_CHUNK) for _ in range(NUM_RESAMPLES // _CHUNK))
    return [chunk.astype(np.uint8) for chunk in chunks]  # nobody is drawn 256 times
