"""Between the driver and rank 0: progress one way, the wish to stop the other. No torch: its actor starts at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        step: Steps done.
        num_steps: The step at which it will end, None where that is not known.
        loss: Of the last step.
        examples_per_s: Of all workers, since the last report.
    """

    step: int
    num_steps: int | None
    loss: float
    examples_per_s: float


@dataclass(frozen=True)
class Fallback:
    """Workers went on from a version because newer ones are damaged.

    Attributes:
        version_uri: Directory of the version.
        damaged: Each newer one, and what is wrong with it.
    """

    version_uri: str
    damaged: tuple[str, ...]


class RunMonitor:
    """What the driver and rank 0 know of each other; runs as an actor."""

    def __init__(self) -> None:
        self._progress: TrainProgress | None = None
        self._stopping = False
        self._fallback: Fallback | None = None

    def tell(self, progress: TrainProgress | None) -> bool:
        """Take the progress; return whether to stop."""
        self._progress = progress or self._progress
        return self._stopping

    def progress(self) -> TrainProgress | None:
        """Return the last progress told."""
        return self._progress

    def fall_back(self, fallback: Fallback) -> None:
        """Take note of a fallback."""
        self._fallback = fallback

    def fallback(self) -> Fallback | None:
        """Return the last fallback."""
        return self._fallback

    def stop(self) -> None:
        """Ask the run to stop."""
        self._stopping = True
