"""Steps done → learning rate: over a run whose length is known, or in cycles until the valid users say that it is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LearningRate = Callable[[int], float]
"""Steps done before → learning rate of the next one."""


def constant(learning_rate: float) -> LearningRate:
    """Return a rate that never changes."""
    return lambda _step: learning_rate


def linear_decay(learning_rate: float, num_steps: int, first: int = 0) -> LearningRate:
    """Return a rate that falls linearly to zero over `num_steps` steps from `first` on."""
    return lambda step: learning_rate * (1 - min(1.0, (step - first) / max(1, num_steps)))


@dataclass(frozen=True)
class Cycle:
    """Steps over which the learning rate falls once.

    Attributes:
        start: Steps done when it begins.
        end: Steps done when it is over.
    """

    start: int
    end: int

    @property
    def quarters(self) -> frozenset[int]:
        """Steps after which a quarter of it is done, two, three, and all."""
        length = self.end - self.start
        return frozenset(self.start + max(1, length * part // 4) for part in (1, 2, 3)) | {self.end}


@dataclass(frozen=True)
class Cycles:
    """Cycles of the learning rate, each twice as long as the one before (SGDR, arXiv 1608.03983, T_mult = 2).

    Attributes:
        first: Length of the first one.
        bound: The step at which the run ends at the latest, which cuts a cycle short; None without one.

    >>> cycles = Cycles(10)
    >>> [cycles.of(step) for step in (0, 9, 10, 69)]
    [Cycle(start=0, end=10), Cycle(start=0, end=10), Cycle(start=10, end=30), Cycle(start=30, end=70)]
    >>> Cycles(10, bound=25).of(12)
    Cycle(start=10, end=25)
    """

    first: int
    bound: int | None = None

    def of(self, step: int) -> Cycle:
        """Return the cycle that the step after so many steps is in."""
        start, end = 0, self.first
        while end <= step:
            start, end = end, end + 2 * (end - start)
        return Cycle(start, end if self.bound is None else max(start, min(end, self.bound)))

    def learning_rate(self, peak: float) -> LearningRate:
        """Return the rate: from the peak to zero in each cycle."""

        def rate(step: int) -> float:
            cycle = self.of(step)
            return linear_decay(peak, cycle.end - cycle.start, cycle.start)(step)

        return rate
