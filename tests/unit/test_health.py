"""What is wrong, by name: logged when it comes and goes, kept from every replica of the updater, never waited for."""

import itertools
import threading
import time

import pytest

from mind_dist.observability import InMemoryMetrics
from mind_dist.serving.health import UPDATERS_MISSING, Problem, Problems, UpdaterWatch
from tests.toy_serving import Clock

LAGGING = Problem("lag_growing", "v1", "partition 3")
STUCK = Problem("no_partitions", "v1", "stuck")


def test_a_problem_is_logged_once_when_it_comes_and_once_when_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    metrics = InMemoryMetrics()
    problems = Problems(metrics)
    with caplog.at_level("INFO", "mind_dist"):
        for seconds in range(3):
            problems.report("v1", {"lag_growing": f"for {seconds} s"})
            assert metrics.values["mind_dist_problem"] == 1
        assert problems.current() == [Problem("lag_growing", "v1", "for 2 s")]
        problems.report("v1", {})
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "problem found"),
        ("INFO", "problem is over"),
    ]
    assert metrics.values["mind_dist_problem"] == 0
    assert problems.current() == []


def test_problems_of_one_source_leave_those_of_others() -> None:
    problems = Problems()
    problems.report("v2", {"skipping_everything": "all"})
    problems.report("v1", {"no_partitions": "none", "lag_growing": "3"})
    problems.report("v2", {})
    assert [(each.source, each.name) for each in problems.current()] == [("v1", "lag_growing"), ("v1", "no_partitions")]


class Replicas:
    """Updaters that are asked in turn; some are silent."""

    def __init__(self, *problems: list[Problem]) -> None:
        self.problems = problems
        self.silent: set[int] = set()
        self._next = itertools.cycle(range(len(problems)))

    def ask(self) -> tuple[str, list[Problem]]:
        replica = next(self._next)
        if replica in self.silent:
            raise TimeoutError
        return str(replica), self.problems[replica]


def test_what_any_replica_says_is_kept_until_it_has_been_silent_for_long() -> None:
    clock, problems = Clock(), Problems()
    replicas = Replicas([LAGGING], [LAGGING, STUCK])
    watch = UpdaterWatch(replicas.ask, fewest=2, most=2, problems=problems, after_s=60, clock=clock)
    watch.look()
    assert watch.current() == [LAGGING, STUCK]
    replicas.silent = {1}
    clock.now += 50
    watch.look()
    assert (watch.current(), problems.current()) == ([LAGGING, STUCK], [])
    clock.now += 11
    watch.look()
    assert watch.current() == [LAGGING]
    [missing] = problems.current()
    assert missing.name == UPDATERS_MISSING
    assert missing.message.startswith("1 of 2 updaters answered within the last 60 s")
    replicas.silent = set()
    watch.look()
    assert (watch.current(), problems.current()) == ([LAGGING, STUCK], [])


def test_updaters_that_are_just_starting_are_not_missed() -> None:
    problems = Problems()
    replicas = Replicas([])
    replicas.silent = {0}
    watch = UpdaterWatch(replicas.ask, fewest=1, most=1, problems=problems, after_s=60, clock=Clock())
    watch.look()
    assert problems.current() == []


def test_an_updater_that_hangs_holds_up_nobody_who_asks_for_problems() -> None:
    hang = threading.Event()

    def ask() -> tuple[str, list[Problem]]:
        hang.wait(30)
        return "0", [STUCK]

    watch = UpdaterWatch(ask, fewest=1, most=1, problems=Problems(), after_s=60, every_s=0.01)
    watch.start()
    assert watch.current() == []
    hang.set()
    while not watch.current():
        time.sleep(0.01)
    watch.stop(10)
    assert watch.current() == [STUCK]
