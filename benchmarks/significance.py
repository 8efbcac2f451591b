"""Metrics of the same users under two recommenders → how sure their difference is."""

from __future__ import annotations

from dataclasses import dataclass

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
    generator = np.random.default_rng(_SEED)
    even = np.full(len(differences), 1.0 / len(differences))
    draws = [generator.multinomial(len(differences), even, size=_CHUNK) for _ in range(NUM_RESAMPLES // _CHUNK)]
    means = np.concatenate([draw @ differences for draw in draws]) / len(differences)
    low, high = np.percentile(means, _INTERVAL)
    least = 1.0 / NUM_RESAMPLES  # so many resamples cannot show less
    p = 2 * max(least, min(float((means <= 0).mean()), float((means >= 0).mean())))
    return Difference(float(differences.mean()), float(low), float(high), min(1.0, p))
