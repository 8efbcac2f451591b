"""Settings → the best of them by valid users: coordinate descent over a grid, from several starts.

A grid of seven settings has millions of points. From each start, one setting after the other walks along its values while
that finds more, over a sample of the valid users; from the best places found, the same again over all of them. A walk
looks two values ahead, so that one bad value does not stop it; from the best end, two settings are moved at once, since some
settings (how much backward pairs count, by which power counts divide) only gain together. Grids are wider than their usual
values, so that an optimum seldom lies on an edge.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, Generic, TypeVar

import numpy as np

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.evaluation.availability import Moments
from mind_dist.evaluation.floors.train_log import Rows
from mind_dist.evaluation.recommenders import Recommender
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import BehaviorSequence

S = TypeVar("S")

Grid = Mapping[str, Sequence[Any]]
"""Setting → its values, in order."""

Point = Mapping[str, Any]
"""Setting → one value of the grid."""

_STEPS = (-2, -1, 1, 2)
_SAMPLE = 1_000
_MOST_USERS = 4_000
_NUM_FINAL = 2
_PROGRESS_S = 5.0


@dataclass(frozen=True)
class Choice:
    """What settings are chosen by: users of whom no target is trained on, and what of a list counts.

    Attributes:
        users: Valid users.
        cutoff: Length N of the lists whose mean recall is taken.
        exclude_seen: One list for each: with the history's items among the candidates or without. One setting has to
            serve all of them, so the mean counts.
        at: What could be recommended to each user; None for everything.
    """

    users: Sequence[HeldOut]
    cutoff: int = 50
    exclude_seen: tuple[bool, ...] = (False, True)
    at: Moments | None = None

    @property
    def histories(self) -> list[BehaviorSequence]:
        """The users' histories."""
        return [user.history for user in self.users]

    def thinned(self, most: int) -> Choice:
        """Return the same with at most so many users, evenly out of all by key: in whatever order they come."""
        if len(self.users) <= most:
            return self
        by_key = np.argsort([user.history.user_key for user in self.users], kind="stable")
        kept = by_key[np.linspace(0, len(by_key) - 1, most).astype(np.int64)]
        at = None if self.at is None else Moments(self.at.times_ms[kept], self.at.availability)
        return dataclasses.replace(self, users=[self.users[place] for place in kept], at=at)

    def quality(self, recommender: Recommender) -> float:
        """Return how good a recommender is: mean recall, over users and lists."""
        lists = [
            recommender.recommend(self.histories, self.cutoff, exclude_seen=exclude, at=self.at)
            for exclude in self.exclude_seen
        ]
        recalls = [
            np.isin(keys, user.targets).sum() / len(user.targets)
            for ranked in lists
            for keys, user in zip(ranked, self.users, strict=True)
        ]
        return float(np.mean(recalls))


@dataclass(frozen=True)
class Effort:
    """How long tuning may take, and where it tells how far it is.

    Attributes:
        max_cpu_s: Processor seconds of this process, after which the best settings so far are taken; what is tried at the
            moment ends first. A search that ends by itself does not depend on the machine; one that is stopped does.
        report: Called with a line of progress every few seconds.
    """

    max_cpu_s: float = math.inf
    report: Callable[[str], None] = field(default=lambda _line: None)


@dataclass(frozen=True)
class Tuned(Generic[S]):
    """What came of tuning.

    Attributes:
        settings: The best found.
        quality: What they reach on the users chosen by.
        num_trials: Settings that were tried.
        cpu_s: Seconds of processor time it took.
        finished: False where it was stopped by `Effort.max_cpu_s`.
    """

    settings: S
    quality: float
    num_trials: int
    cpu_s: float
    finished: bool


class Clock:
    """How long tuning has taken, and whether it has to stop.

    Args:
        name: What is tuned, for progress lines.
        effort: How long it may take.
    """

    def __init__(self, name: str, effort: Effort) -> None:
        self.num_trials = 0
        self._name = name
        self._effort = effort
        self._started = self._reported = time.monotonic()
        self._started_cpu = time.process_time()

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        return time.process_time() - self._started_cpu

    @property
    def is_up(self) -> bool:
        """Whether no further trial may begin."""
        return self.left_s < 0

    @property
    def left_s(self) -> float:
        """Processor time that is left."""
        return self._effort.max_cpu_s - self.cpu_s

    def count(self, best: float) -> None:
        """Count a trial, and tell of the best so far now and then."""
        self.num_trials += 1
        now = time.monotonic()
        if now - self._reported > _PROGRESS_S:
            self._reported = now
            self._effort.report(
                f"{self._name}: {self.num_trials} settings tried in {now - self._started:.0f} s, best recall {best:.4f}"
            )

    def result(self, settings: S, quality: float) -> Tuned[S]:
        """Return what came of it."""
        return Tuned(settings, quality, self.num_trials, self.cpu_s, not self.is_up)


class Search:
    """Coordinate descent over a grid; a point is tried once.

    Args:
        grid: Values of each setting; a walk goes over settings in this order.
        quality: How good a point is.
        clock: Counts trials, and says when to stop.
    """

    def __init__(self, grid: Grid, quality: Callable[[Point], float], clock: Clock) -> None:
        self._grid = grid
        self._quality = quality
        self._clock = clock
        self.found: dict[tuple[Any, ...], float] = {}

    def descend(self, start: Point) -> Point:
        """Return where no setting alone improves; after the time is up, the best place on the way there."""
        point, moved = start, True
        while moved:
            moved = False
            for name in self._grid:
                while (better := self._along(point, name)) is not None and not self._clock.is_up:
                    point, moved = better, True
        return point

    def refine(self, end: Point) -> Point:
        """Return where no two settings together improve by one value each, from an end of `descend`."""
        while (better := self._across(end)) is not None:
            end = self.descend(better)
        return end

    def of(self, point: Point) -> float:
        """Return how good a point is."""
        key = tuple(point[name] for name in self._grid)
        if key not in self.found:
            self.found[key] = self._quality(point)
            self._clock.count(max(self.found.values()))
        return self.found[key]

    def _along(self, point: Point, name: str) -> Point | None:
        """Return the best point within two values of one setting; None where that is this one."""
        best, quality = None, self.of(point)
        for other in [self._moved(point, {name: step}) for step in _STEPS]:
            if other is not None and not self._clock.is_up and self.of(other) > quality:
                best, quality = other, self.of(other)
        return best

    def _across(self, point: Point) -> Point | None:
        """Return the first better point one value away in two settings; None without one."""
        for first, second in combinations(self._grid, 2):
            for by in product((-1, 1), repeat=2):
                other = self._moved(point, {first: by[0], second: by[1]})
                if self._clock.is_up:
                    return None
                if other is not None and self.of(other) > self.of(point):
                    return other
        return None

    def _moved(self, point: Point, steps: Mapping[str, int]) -> Point | None:
        """Return a point so many values further in some settings; None beyond the grid."""
        places = {name: self._grid[name].index(point[name]) + step for name, step in steps.items()}
        if any(not 0 <= place < len(self._grid[name]) for name, place in places.items()):
            return None
        return dict(point) | {name: self._grid[name][place] for name, place in places.items()}


def search(
    grid: Grid,
    starts: Iterable[Point],
    quality_on: Callable[[Choice], Callable[[Point], float]],
    choice: Choice,
    clock: Clock,
) -> tuple[Point, float]:
    """Return the best point and how good it is on the users chosen by.

    Args:
        grid: Values of each setting.
        starts: Points of the grid.
        quality_on: Users → how good a point is on them.
        choice: The users chosen by.
        clock: Counts trials, and says when to stop.
    """
    everybody, sample = choice.thinned(_MOST_USERS), choice.thinned(_SAMPLE)
    first = Search(grid, quality_on(sample), clock)
    ends = [first.descend(start) for start in starts]
    ends.sort(key=first.of, reverse=True)
    distinct = [end for place, end in enumerate(ends) if end not in ends[:place]]
    final = first if len(everybody.users) == len(sample.users) else Search(grid, quality_on(everybody), clock)
    ends = [final.descend(end) for end in distinct[:_NUM_FINAL]]
    best = final.refine(max(ends, key=final.of))
    return best, final.of(best)


class Wanted:
    """What the users of a choice are to find, as rows of the catalog, for a quick recall.

    Args:
        choice: The users.
        catalog: The items.
    """

    def __init__(self, choice: Choice, catalog: ItemCatalog) -> None:
        rows = [catalog.rows(user.targets) for user in choice.users]
        self._wanted = [np.unique(each[each >= 0]) for each in rows]
        self._num_targets = [len(each) for each in rows]
        self._is_wanted = np.zeros(len(catalog), dtype=np.bool_)

    def recall(self, ranked: Iterable[Rows]) -> float:
        """Return the mean recall of one list a user."""
        return float(np.mean([self._one(user, rows) for user, rows in enumerate(ranked)]))

    def _one(self, user: int, ranked: Rows) -> float:
        self._is_wanted[self._wanted[user]] = True
        num_found = np.count_nonzero(self._is_wanted[ranked])
        self._is_wanted[self._wanted[user]] = False
        return num_found / self._num_targets[user]
