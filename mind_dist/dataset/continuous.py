"""Numbers of the metadata → continuous features as the item tower reads them: standardised by the train part, and bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CLIP = 5.0
"""Deviations from the mean beyond which values are clipped: one wrong price must not rule what is learned of all others."""

_TAIL = 0.01
"""Share of the values at either end that count as the value there when mean and deviation are taken, for the same reason."""

_CONSTANT = 1e-12
"""Deviation, as a part of the largest value, that is nothing but rounding."""

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Standard:
    """How a number is standardised.

    Attributes:
        scale: The number itself, or sign(x) · log(1 + |x|).
        mean: What is subtracted then.
        deviation: What it is divided by then, above 0.
    """

    scale: Literal["linear", "log"] = "linear"
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def fit(cls, values: pa.Array, scale: Literal["linear", "log"]) -> Standard:
        """Return what gives values a mean of 0 and a deviation of 1, but for the tails; nulls are left out.

        >>> Standard.fit(pa.array([1.0, 3.0, None]), "linear")
        Standard(scale='linear', mean=2.0, deviation=0.98)
        """
        known = _scaled(_reals(values.drop_null()), scale)
        if not len(known):
            return cls(scale)
        unit = float(np.abs(known).max()) or 1.0  # squares of the largest numbers would be infinite
        known = known / unit
        inside = np.clip(known, *np.quantile(known, [_TAIL, 1 - _TAIL]))
        if inside.std() <= _CONSTANT:  # nearly all are equal: what differs is all that there is to see
            inside = known
        deviation = float(inside.std()) * unit if inside.std() > _CONSTANT else 0.0
        return cls(scale, float(inside.mean()) * unit, deviation or 1.0)

    def apply(self, values: pa.Array) -> tuple[NDArray[np.float32], int]:
        """Return standardised values, NaN where null, and how many were clipped."""
        numbers = _scaled(_reals(values), self.scale)
        with np.errstate(over="ignore"):
            standard = (numbers - self.mean) / self.deviation
        clipped = np.clip(standard, -CLIP, CLIP)
        return clipped.astype(np.float32), int((np.abs(standard) > CLIP).sum())


def _reals(values: pa.Array) -> Reals:
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _scaled(numbers: Reals, scale: Literal["linear", "log"]) -> Reals:
    return np.asarray(np.sign(numbers) * np.log1p(np.abs(numbers))) if scale == "log" else numbers
