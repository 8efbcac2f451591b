"""Metrics of the same users under two recommenders → how sure their difference is, and how sure among many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
_SEED = 1230
_CHUNK = 500
_MOST_RESAMPLED = 20_000
"""Users that are resampled; the mean of more is normal, and 10,000 draws of them would take minutes."""
_INTERVAL = (2.5, 97.5)
_NORMAL_INTERVAL = 1.959964


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
    """Compare a metric of the same users, [n] each; always with the same random numbers.

    Of more users than are resampled, the interval and p are those of the normal distribution.
    """
    differences = first - second
    if len(differences) > _MOST_RESAMPLED:
        return _normal(differences)
    means = np.concatenate([draw @ differences for draw in _resamples(len(differences))]) / len(differences)
    low, high = np.percentile(means, _INTERVAL)
    least = 1.0 / NUM_RESAMPLES  # so many resamples cannot show less
    p = 2 * max(least, min(float((means <= 0).mean()), float((means >= 0).mean())))
    return Difference(float(differences.mean()), float(low), float(high), min(1.0, p))


def _normal(differences: NDArray[np.float64]) -> Difference:
    mean, error = float(differences.mean()), float(differences.std()) / math.sqrt(len(differences))
    p = math.erfc(abs(mean) / error / math.sqrt(2.0)) if error else float(mean == 0)
    reach = _NORMAL_INTERVAL * error
    return Difference(mean, mean - reach, mean + reach, max(2.0 / NUM_RESAMPLES, p))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979): below α, no more than α of such families have a false one.

    The least is multiplied by how many there are, the next by one less, and so on; none becomes less than the one before.

    >>> [round(each, 2) for each in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p, kind="stable")
    least_first = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(least_first))
    found: list[float] = corrected.tolist()
    return found


def corrected(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a report's comparisons with `p_holm` beside each `p`: corrected for how many they are."""
    p_holm = holm([each["p"] for each in comparisons])
    return [{**each, "p_holm": value} for each, value in zip(comparisons, p_holm, strict=True)]


@lru_cache(maxsize=8)
def _resamples(num_users: int) -> list[NDArray[np.uint8]]:
    """Return how often each user is drawn in each resample; kept, since comparisons of a dataset share them."""
    generator = np.random.default_rng(_SEED)
    even = np.full(num_users, 1.0 / num_users)
    chunks = (generator.multinomial(num_users, even, size=_CHUNK) for _ in range(NUM_RESAMPLES // _CHUNK))
    return [chunk.astype(np.uint8) for chunk in chunks]  # nobody is drawn 256 times
