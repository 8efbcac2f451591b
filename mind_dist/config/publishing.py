"""Settings of publishing."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class PublishConfig:
    """What a version must show before readers are switched to it, and what is kept behind it."""

    ann_sample: int = 200
    """Users whose interests are searched by index and exactly, to compare."""
    ann_limit: int = 50
    """Items asked for in that comparison."""
    min_ann_recall: float = 0.95
    """Least share of the exact items that the index must find."""
    min_recall: float = 0.0
    """Least recall@50 the version must have been evaluated with; 0 asks for none."""
    max_recall_drop: float = 0.1
    """Largest share of the active version's recall@50 that may be lost."""
    allow_breaking: bool = False
    """Also publish a version of another width, similarity, event types or columns than the active one: readers' queries
    or filters may fail then. Ids of another type are refused all the same."""
    wait_for_users: bool = True
    """Switch readers only when the version has the rows of all users; off where no updaters run now."""
    catch_up_s: float = 3600.0
    """How long updaters may take to make the new version's rows of all users."""
    keep: int = 2
    """Versions kept behind the active one, for rollback."""
    batch_size: int = 1000
    """Items written at a time."""
    fill_threads: int = 4
    """Requests with items that are under way at a time."""
    lease_s: float = 20.0
    """A publish that is not heard of for so long is dead, and another one may begin."""

    def __post_init__(self) -> None:
        check(self.ann_sample >= 1, "ann_sample", "at least 1")
        check(self.fill_threads >= 1, "fill_threads", "at least 1")
        check(self.lease_s > 0, "lease_s", "above 0")
        check(self.ann_limit >= 1, "ann_limit", "at least 1")
        check(0 <= self.min_ann_recall <= 1, "min_ann_recall", "between 0 and 1")
        check(0 <= self.min_recall <= 1, "min_recall", "between 0 and 1")
        check(0 <= self.max_recall_drop <= 1, "max_recall_drop", "between 0 and 1")
        check(self.catch_up_s >= 0, "catch_up_s", "0 or more")
        check(self.keep >= 0, "keep", "0 or more")
        check(self.batch_size >= 1, "batch_size", "at least 1")
