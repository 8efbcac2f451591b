"""A step's examples → how many of them are each worker's: what is trained does not depend on how many workers there are."""

from __future__ import annotations

from mind_dist.errors import ConfigError
from mind_dist.training.collectives import Collectives


def share_of(step_size: int, ranks: Collectives) -> int:
    """Return how many examples of a step are this rank's.

    Raises:
        ConfigError: There are more ranks than examples.
    """
    check_share(step_size, ranks.world_size)
    return step_size // ranks.world_size + (ranks.rank < step_size % ranks.world_size)


def check_share(step_size: int, num_workers: int) -> None:
    """Raise ConfigError where a step has fewer examples than there are workers to share them."""
    if step_size < num_workers:
        examples = f"a step has {step_size} examples (windows, or events) for {num_workers} workers"
        raise ConfigError("training.batch_size", f"is too small: {examples}: raise it, or take fewer workers")
