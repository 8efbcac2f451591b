"""The threads of serving: an update loop around its updater, a follower around the wanted versions."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.errors import ServiceUnavailable, UpdaterStopped, VersionError
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow, VersionInfo
from mind_dist.serving.health import (
    ACTIVE_VERSION_NOT_LOADED,
    IGNORING_EVERYTHING,
    LAG_GROWING,
    LAG_UNKNOWN,
    NO_ACTIVE_VERSION,
    NO_PARTITIONS,
    SKIPPING_EVERYTHING,
    STAGED_VERSION_NOT_LOADED,
    UPDATE_FAILING,
    VERSIONS_UNKNOWN,
    LagWatch,
    Problems,
)
from mind_dist.serving.update_loop import OnStep, UpdateLoop
from mind_dist.serving.updater import UserVectorUpdater
from mind_dist.serving.version_follower import VersionFollower
from tests.toy_serving import (
    INFO,
    POISON,
    VERSION,
    MovingSource,
    Run,
    ToyEncoder,
    click,
    log_of,
    toy_config,
    toy_manifest,
    toy_store,
)


def eventually(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "did not happen in time"
        time.sleep(0.005)


class SwitchedStore(InMemoryVectorStore):
    """A store that can be away, or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.hang = threading.Event()
        self.hang.set()

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        self.hang.wait(10)
        if self.away:
            raise ServiceUnavailable("Milvus", "toy", 1.0)
        super().upsert_users(model_version, rows)


class Setting:
    def __init__(self, *entries: tuple[bytes, bytes | None], **settings: Any) -> None:
        self.store = SwitchedStore()
        config = toy_config(poll_timeout_s=0.01, max_backoff_s=0.05, **settings)
        self.run = Run(log_of(entries), toy_store(self.store), config=config)
        self.failures = 0
        self.problems = Problems(self.run.metrics)
        self.unowned = ""
        self.loop = UpdateLoop(
            VERSION,
            self.build,
            config,
            problems=self.problems,
            why_unowned=lambda: self.unowned,
            clock=self.run.clock,
        )

    def build(self, on_step: OnStep) -> UserVectorUpdater:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("Kafka", "toy", 1.0)
        self.source = self.run.source()
        return self.run.updater_of(self.source, on_step)

    def found(self) -> dict[str, str]:
        return {problem.name: problem.message for problem in self.problems.current()}

    def pass_time(self, seconds: int) -> None:
        """Let time pass in the steps in which lag is looked at."""
        for _ in range(0, seconds, 6):
            self.run.clock.now += 6
            self.wait_for_a_look()

    def wait_for_a_look(self) -> None:
        due = self.loop._lag_due
        eventually(lambda: self.loop._lag_due > due)

    def stopped(self) -> str:
        try:
            self.loop.check()
        except UpdaterStopped as error:
            return str(error)
        return ""


@pytest.fixture
def setting() -> Iterator[Setting]:
    setting = Setting(click(7, 3, 100))
    yield setting
    setting.store.hang.set()
    setting.loop.stop(10)


def test_a_loop_applies_events_until_stopped(setting: Setting) -> None:
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.run.log.append(*click(7, 4, 200))
    eventually(lambda: setting.loop.status().num_applied == 2)
    status = setting.loop.status()
    assert (status.model_version, status.num_upserts, status.num_poison, status.problem) == (VERSION, 2, 0, "")
    assert status.num_partitions == 1
    assert status.freshness_ms.keys() == {"p50", "p99"}
    setting.loop.stop(10)
    setting.loop.check()
    setting.run.log.append(*click(7, 5, 300))
    time.sleep(0.05)
    assert setting.loop.status().num_applied == 2


def test_lag_is_reported_now_and_then(setting: Setting) -> None:
    setting.loop.start()
    eventually(lambda: "mind_dist_lag_records" in setting.run.metrics.values)


def test_a_loop_survives_a_broker_that_comes_late(setting: Setting) -> None:
    setting.failures = 3
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.loop.check()


def test_a_store_outage_is_unhealthy_after_the_bound_and_loses_nothing(setting: Setting) -> None:
    setting.store.away = True
    setting.loop.start()
    eventually(lambda: setting.loop.status().problem)
    assert setting.stopped() == ""
    setting.run.clock.now += setting.run.config.unhealthy_after_s + 1
    eventually(lambda: "is failing for 61 s: Milvus at toy" in setting.stopped())
    setting.store.away = False
    eventually(lambda: setting.loop.status().num_applied == 1)
    assert setting.stopped() == ""


def test_a_stuck_step_is_named(setting: Setting) -> None:
    setting.store.hang.clear()
    setting.loop.start()
    eventually(lambda: "upsert" in setting.loop._at)
    setting.run.clock.now += setting.run.config.stuck_after_s + 1
    assert "is stuck in step 6 (upsert) for 91 s" in setting.stopped()


def test_too_much_poison_kills_the_loop() -> None:
    setting = Setting(POISON, kafka=KafkaConfig(max_poison_fraction=0.5, poison_window=1))
    setting.loop.start()
    eventually(setting.stopped)
    assert "died: 1 of the last 1 records are poison" in setting.stopped()
    assert "poison" in setting.loop.status().problem


def test_an_updater_without_partitions_says_so_after_the_bound_and_when_it_is_over(setting: Setting) -> None:
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.unowned = "the group is stuck"
    setting.source.move([])
    eventually(lambda: setting.loop.status().num_partitions == 0)
    setting.pass_time(54)
    assert setting.found() == {}
    setting.pass_time(12)
    assert setting.found() == {NO_PARTITIONS: "the group is stuck"}
    assert setting.run.metrics.values["mind_dist_problem"] == 1
    setting.source.move([0])
    setting.pass_time(12)
    assert setting.found() == {}
    assert setting.run.metrics.values["mind_dist_problem"] == 0


def test_an_updater_that_waits_beside_others_is_no_problem(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.source.move([])
    eventually(lambda: setting.loop.status().num_partitions == 0)
    with caplog.at_level("INFO", "mind_dist"):
        setting.pass_time(200)
    assert setting.found() == {}
    assert [record.levelname for record in caplog.records if "no partition is ours" in record.message] == ["INFO"]


def test_skipping_everything_for_long_is_told_and_a_short_redelivery_is_not(setting: Setting) -> None:
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    for number in range(2, 200):
        setting.run.log.append(*click(7, 3, 100 * number))
    eventually(lambda: setting.loop.status().num_applied == 199)
    setting.source.commit({0: 0})  # the same records come again and again, as of a topic that was made anew
    for _ in range(10):
        setting.source.move([0])
        eventually(lambda: setting.source.position() == {0: 199})
        assert setting.found() == {}
        setting.pass_time(6)
    setting.source.move([0])
    setting.pass_time(6)
    assert re.search(
        "none of the [0-9]+ records of the last [0-9]+ s was applied", setting.found()[SKIPPING_EVERYTHING]
    )
    setting.run.log.append(*click(7, 4, 100_000))
    eventually(lambda: setting.loop.status().num_applied == 200)
    setting.pass_time(6)
    assert setting.found() == {}


def test_ignoring_everything_for_long_is_told(setting: Setting) -> None:
    setting.run.encoder = ToyEncoder(manifest=toy_manifest("buy"))
    setting.loop.start()
    for _ in range(12):
        for number in range(10):
            setting.run.log.append(*click(7, number, 100, "impression"))
        setting.pass_time(6)
    assert "event_types in the version's manifest" in setting.found()[IGNORING_EVERYTHING]
    setting.run.log.append(*click(7, 4, 200, "buy"))
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.pass_time(6)
    assert setting.found() == {}


def test_a_lag_that_grows_for_long_is_told_with_its_partition() -> None:
    watch = LagWatch(60)
    for at in range(0, 180, 5):
        watch.note({0: 500, 1: 3 * at, 2: 400 + (at % 10) * 90}, at)
        if at < 60:
            assert watch.problem(at) == ""
    assert watch.problem(175).startswith("the lag of partition 1 (525 records) grows: add updaters")
    watch.note({0: 500}, 180)  # it is another updater's now
    assert watch.problem(180) == ""


def test_the_lag_that_a_loop_reports_is_the_lag_it_watches(setting: Setting) -> None:
    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    setting.store.hang.clear()
    setting.loop._lags = LagWatch(60)  # without what was seen a moment ago
    setting.loop._lags.note({0: 0}, setting.run.clock.now - 70)
    for number in range(2, 300):
        setting.run.log.append(*click(7, 3, 100 * number))
    eventually(lambda: "upsert" in setting.loop._at)
    setting.run.clock.now += 6
    setting.store.hang.set()
    eventually(lambda: setting.found().get(LAG_GROWING, "").startswith("the lag of partition 0 ("))


def test_a_lag_that_cannot_be_asked_for_is_a_problem_though_polls_find_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_self: MovingSource, timeout_s: float) -> Mapping[int, int]:
        raise ServiceUnavailable("Kafka", "toy", timeout_s)

    setting.loop.start()
    eventually(lambda: setting.loop.status().num_applied == 1)
    with monkeypatch.context() as broker:
        broker.setattr(MovingSource, "lag", away)
        setting.pass_time(12)
        assert setting.found() == {LAG_UNKNOWN: "Kafka at toy did not answer within 2 s"}
    setting.pass_time(12)
    assert setting.found() == {}


def test_a_failing_update_is_a_problem_while_it_fails(setting: Setting) -> None:
    setting.store.away = True
    setting.loop.start()
    eventually(lambda: "Milvus at toy" in setting.found().get(UPDATE_FAILING, ""))
    setting.store.away = False
    eventually(lambda: setting.found() == {})
    setting.loop.stop(10)
    assert setting.found() == {}


class Followed:
    """A follower whose parts are names, and what it made and ended."""

    def __init__(self) -> None:
        self.store = InMemoryVectorStore()
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.problems = Problems()
        self.follower = VersionFollower(self.store, self.make, self.end, poll_s=0.01, problems=self.problems)

    def found(self) -> dict[str, str]:
        return {problem.name: problem.message for problem in self.problems.current()}

    def make(self, info: VersionInfo) -> str:
        if info.model_version in self.broken:
            raise VersionError(info.uri, "torn")
        self.log.append(f"make {info.model_version}")
        return info.model_version

    def end(self, part: str) -> None:
        self.log.append(f"end {part}")

    def add(self, version: str) -> None:
        self.store.create_version(dataclasses.replace(INFO, model_version=version))


@pytest.fixture
def followed() -> Followed:
    followed = Followed()
    followed.add("v1")
    followed.add("v2")
    return followed


def test_versions_are_taken_over_while_running(followed: Followed) -> None:
    followed.follower.look()
    assert followed.log == []
    followed.store.activate("v1")
    followed.follower.look()
    followed.store.stage("v2")
    followed.follower.look()
    assert followed.follower.parts == {"v1": "v1", "v2": "v2"}
    followed.store.activate("v2")
    followed.follower.look()
    assert followed.log == ["make v1", "make v2", "end v1"]


def test_a_torn_new_version_leaves_the_old_one_running(followed: Followed) -> None:
    followed.store.activate("v1")
    followed.follower.look()
    followed.broken.add("v2")
    followed.store.stage("v2")
    followed.follower.look()
    followed.store.activate("v2")
    with pytest.raises(VersionError, match="torn"):
        followed.follower.look()
    assert followed.follower.parts == {"v1": "v1"}


def test_following_that_fails_is_unhealthy_after_the_bound_and_recovers(followed: Followed) -> None:
    followed.broken.add("v1")
    followed.store.activate("v1")
    followed.follower.start()
    eventually(lambda: followed.follower._problem)
    followed.follower.check(60)
    with pytest.raises(UpdaterStopped, match="torn"):
        followed.follower.check(0)
    followed.broken.clear()
    eventually(lambda: followed.log == ["make v1"])
    eventually(lambda: followed.follower._problem is None)
    followed.follower.check(0)
    followed.follower.stop(10)
    assert followed.log == ["make v1", "end v1"]
    with pytest.raises(UpdaterStopped, match="died"):
        followed.follower.check(60)


def test_versions_that_do_not_load_are_problems_until_they_do(followed: Followed) -> None:
    followed.broken |= {"v1", "v2"}
    followed.follower.start()
    eventually(lambda: followed.found() == {NO_ACTIVE_VERSION: "no model version is active: publish one"})
    followed.store.activate("v1")
    followed.store.stage("v2")
    eventually(lambda: ACTIVE_VERSION_NOT_LOADED in followed.found())
    assert "torn" in followed.found()[ACTIVE_VERSION_NOT_LOADED]
    followed.broken.remove("v1")
    eventually(lambda: followed.found().keys() == {STAGED_VERSION_NOT_LOADED})
    assert "version v2 is staged" in followed.found()[STAGED_VERSION_NOT_LOADED]
    followed.broken.remove("v2")
    eventually(lambda: followed.found() == {})
    followed.follower.stop(10)


def test_a_store_that_does_not_answer_leaves_the_wanted_versions_unknown(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise ServiceUnavailable("Milvus", "toy", 1.0)

    monkeypatch.setattr(followed.store, "staged_version", away)
    followed.follower.start()
    eventually(lambda: "Milvus at toy" in followed.found().get(VERSIONS_UNKNOWN, ""))
    followed.follower.stop(10)


def test_a_version_that_is_gone_is_named(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    followed.store.activate("v1")
    monkeypatch.setattr(followed.store, "versions", list)
    with pytest.raises(VersionError, match="v1: not in the vector store"):
        followed.follower.look()
