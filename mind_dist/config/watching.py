"""Settings of how training is watched by the valid users."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class WatchConfig:
    """How the valid users decide which version is the best and, without `training.epochs`, when to stop.

    Then the learning rate falls to zero in cycles, each twice as long as the one before (SGDR, arXiv 1608.03983): at the end
    of each stands what a run of that length would have come to, and the next one asks whether a longer run is worth it.
    """

    max_users: int = 1_000
    """Valid users that are evaluated, evenly from all of them; fewer where there are so many items that it would take long."""
    min_gain: float = 0.005
    """What a cycle must add to the best valid recall, as a share of it, for a further one to be trained."""
    patience: int = 1
    """Stop after so many cycles in a row that add less."""

    def __post_init__(self) -> None:
        check(self.max_users >= 1, "max_users", "at least 1")
        check(self.min_gain >= 0, "min_gain", "0 or more")
        check(self.patience >= 1, "patience", "at least 1")
