"""The threads of serving: loops around the states' updater and a view, a follower around the wanted versions."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mind_dist.config import KafkaConfig, ModelConfig, StatesConfig, ViewsConfig
from mind_dist.errors import AnotherLog, ServiceUnavailable, UpdaterStopped, VersionError
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow, VersionInfo
from mind_dist.serving.health import (
    ACTIVE_VERSION_NOT_LOADED,
    FEATURES_NOT_KEPT,
    IGNORING_EVERYTHING,
    LAG_UNKNOWN,
    NO_ACTIVE_VERSION,
    NO_PARTITIONS,
    PARTITIONS_STOPPED,
    SKIPPING_EVERYTHING,
    STAGED_VERSION_NOT_LOADED,
    UPDATE_FAILING,
    VERSIONS_UNKNOWN,
    VIEW_FAILING,
    LagWatch,
    Problems,
)
from mind_dist.serving.states_loop import StatesLoop
from mind_dist.serving.version_follower import VersionFollower
from mind_dist.serving.view_loop import ViewLoop
from mind_dist.serving.work_loop import Beat, WorkLoop
from mind_dist.states.updater import StatesUpdater
from tests.state_worlds import store_of
from tests.toy_serving import (
    DIM,
    INFO,
    POISON,
    VERSION,
    MovingSource,
    Run,
    ToyEncoder,
    click,
    log_of,
    toy_config,
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
    """The two loops of an updater replica, over logs and an index in this process."""

    def __init__(self, folder: Path, *entries: tuple[bytes, bytes | None], **settings: Any) -> None:
        self.store = SwitchedStore()
        views = ViewsConfig(store_s=0, audit_s=0)
        config = toy_config(**{"poll_timeout_s": 0.01, "max_backoff_s": 0.05, "views": views, **settings})
        self.run = Run(log_of(entries), folder, toy_store(self.store), config=config)
        self.failures = 0
        self.problems = Problems(self.run.metrics)
        self.unowned = ""
        self.states = StatesLoop(
            self.build,
            config,
            self.run.metrics,
            problems=self.problems,
            why_unowned=lambda: self.unowned,
            clock=self.run.clock,
        )
        self.view = ViewLoop(
            VERSION,
            self.run.view,
            self.run.shared,
            config,
            self.run.metrics,
            problems=self.problems,
            clock=self.run.clock,
        )

    def build(self, beat: Beat) -> StatesUpdater:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("Kafka", "toy", 1.0)
        self.source = self.run.source()
        return self.run.updater(lambda step: beat(f"{step.value} ({step.name.lower()})"), self.source)

    def start(self) -> None:
        self.states.start()
        self.view.start()

    def found(self) -> dict[str, str]:
        return {problem.name: problem.message for problem in self.problems.current()}

    def pass_time(self, seconds: int) -> None:
        """Let time pass in the steps in which lag is looked at."""
        for _ in range(0, seconds, 6):
            self.run.clock.now += 6
            self.wait_for_a_look(self.states._look_at)

    def wait_for_a_look(self, due: float) -> None:
        eventually(lambda: self.states._look_at > due)

    def wait_until_applied(self, count: int) -> None:
        eventually(lambda: self.states.status().num_applied == count)

    def stopped(self) -> str:
        try:
            self.states.check()
            self.view.check()
        except UpdaterStopped as error:
            return str(error)
        return ""

    def end(self) -> None:
        self.store.hang.set()
        self.view.stop(10)
        self.states.stop(10)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path, click(7, 3, 100))
    yield setting
    setting.end()


def test_events_become_rows_until_the_loops_are_stopped(setting: Setting) -> None:
    setting.start()
    eventually(lambda: setting.view.status().num_upserts == 1)
    setting.run.events.append(*click(7, 4, 200))
    eventually(lambda: setting.view.status().num_upserts == 2)
    states, view = setting.states.status(), setting.view.status()
    assert (states.partitions, states.num_applied, states.num_poison, states.problem) == ([0], 2, 0, "")
    assert (view.model_version, view.num_behind, view.problem) == (VERSION, 0, "")
    assert view.freshness_ms.keys() == {"p50", "p99"}
    assert setting.stopped() == ""
    setting.end()
    setting.run.events.append(*click(7, 5, 300))
    time.sleep(0.05)
    assert setting.states.status().num_applied == 2


def test_lag_is_reported_now_and_then(setting: Setting) -> None:
    setting.start()
    eventually(lambda: "mind_dist_lag_records" in setting.run.metrics.values)
    eventually(lambda: "mind_dist_view_lag_states" in setting.run.metrics.values)


def test_a_loop_survives_a_broker_that_comes_late(setting: Setting) -> None:
    setting.failures = 3
    setting.start()
    setting.wait_until_applied(1)
    assert setting.stopped() == ""


class Work:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_work_on_a_log_that_was_made_anew_is_built_anew() -> None:
    built: list[Work] = []

    def build(_beat: Beat) -> Work:
        built.append(Work())
        return built[-1]

    def step(work: Work) -> None:
        time.sleep(0.005)
        if work is built[0]:
            raise AnotherLog("toy", "topic a", "topic a again", "begin anew")

    loop = WorkLoop("toy", build, step, toy_config())
    loop.start()
    eventually(lambda: len(built) == 2)
    eventually(lambda: not loop.problem)
    loop.stop(10)
    assert [each.closed for each in built] == [True, True]


def test_an_index_that_is_away_is_unhealthy_after_the_bound_and_holds_up_no_state(setting: Setting) -> None:
    setting.store.away = True
    setting.start()
    setting.wait_until_applied(1)
    eventually(lambda: setting.view.status().problem)
    assert setting.stopped() == ""
    eventually(lambda: "Milvus at toy" in setting.found().get(VIEW_FAILING, ""))
    setting.run.events.append(*click(7, 4, 200))
    setting.wait_until_applied(2)
    setting.run.clock.now += setting.run.config.unhealthy_after_s + 1
    eventually(lambda: "is failing for 61 s: Milvus at toy" in setting.stopped())
    setting.store.away = False
    eventually(lambda: setting.view.status().num_upserts == 1)
    eventually(lambda: setting.stopped() == "")
    eventually(lambda: setting.found() == {})


def test_what_a_version_reads_and_states_do_not_keep_is_a_problem(tmp_path: Path) -> None:
    setting = Setting(tmp_path, click(7, 3, 100))
    setting.run.encoder = ToyEncoder(
        config=ModelConfig(dim=DIM, num_interests=2, behavior_features=("event_type", "device"))
    )
    setting.start()
    eventually(lambda: FEATURES_NOT_KEPT in setting.found())
    assert (
        "reads device of each behavior, which is not kept: name it in serving.states.features"
        in setting.found()[FEATURES_NOT_KEPT]
    )
    setting.end()


def test_a_stuck_view_is_named(setting: Setting) -> None:
    setting.store.hang.clear()
    setting.start()
    setting.wait_until_applied(1)
    eventually(lambda: setting.run.shared.owned().stores)
    time.sleep(0.05)
    setting.run.clock.now += setting.run.config.stuck_after_s + 1
    eventually(lambda: f"the view of {VERSION} is stuck in step step for 91 s" in setting.stopped())


def test_intake_waits_while_the_views_are_too_far_behind(tmp_path: Path) -> None:
    setting = Setting(tmp_path, *[click(user, 3, 100) for user in range(40)])
    setting.store.hang.set()
    run = setting.run
    updater = run.updater(may_take=lambda: run.shared.most_behind() <= 3)
    run.shared.set_behind(VERSION, 10)
    for _ in range(20):
        updater.step(0)
    assert list(store_of(updater, 0).user_keys()) == []
    run.shared.set_behind(VERSION, 0)
    run.drain(updater)
    assert len(list(store_of(updater, 0).user_keys())) == 40
    updater.close()


def test_too_much_poison_stops_its_partition_and_no_replica(tmp_path: Path) -> None:
    setting = Setting(tmp_path, POISON, kafka=KafkaConfig(max_poison_fraction=0.5, poison_window=1))
    setting.start()
    eventually(lambda: setting.states.status().stopped)
    assert setting.stopped() == ""
    setting.pass_time(6)
    found = setting.found()[PARTITIONS_STOPPED]
    assert "partition 0: 1 of the last 1 records are poison" in found
    assert "python -m jobs.partitions" in found
    setting.end()


def test_an_updater_without_partitions_says_so_after_the_bound_and_when_it_is_over(setting: Setting) -> None:
    setting.start()
    setting.wait_until_applied(1)
    setting.unowned = "the group is stuck"
    setting.source.move([])
    eventually(lambda: setting.states.status().partitions == [])
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
    setting.start()
    setting.wait_until_applied(1)
    setting.source.move([])
    eventually(lambda: setting.states.status().partitions == [])
    with caplog.at_level("INFO", "mind_dist"):
        setting.pass_time(200)
    assert setting.found() == {}
    assert [record.levelname for record in caplog.records if "no partition is ours" in record.message] == ["INFO"]


def test_skipping_everything_for_long_is_told_and_a_short_redelivery_is_not(setting: Setting) -> None:
    group = setting.run.config.kafka.updaters_group
    setting.start()
    setting.wait_until_applied(1)
    for number in range(2, 200):
        setting.run.events.append(*click(7, 3, 100 * number))
    setting.wait_until_applied(199)

    def again() -> None:  # the same records come again and again
        setting.run.events.store(group, {0: 0})
        setting.source.move([0])
        eventually(lambda: setting.run.events.stored(group, [0]) == {0: 199})

    for _ in range(10):
        again()
        assert setting.found() == {}
        setting.pass_time(6)
    again()
    setting.pass_time(6)
    assert re.search(
        "none of the [0-9]+ records of the last [0-9]+ s was applied", setting.found()[SKIPPING_EVERYTHING]
    )
    setting.run.events.append(*click(7, 4, 100_000))
    setting.wait_until_applied(200)
    setting.pass_time(6)
    assert setting.found() == {}


def test_ignoring_everything_for_long_is_told(tmp_path: Path) -> None:
    setting = Setting(tmp_path, states=StatesConfig(event_types=("buy",)))
    setting.start()

    def is_told_as_time_passes() -> bool:
        for number in range(10):
            setting.run.events.append(*click(7, number, 100, "impression"))
        setting.pass_time(6)
        return "serving.states.event_types" in setting.found().get(IGNORING_EVERYTHING, "")

    eventually(is_told_as_time_passes)
    setting.run.events.append(*click(7, 4, 200, "buy"))
    setting.wait_until_applied(1)
    setting.pass_time(6)
    eventually(lambda: setting.found() == {})
    setting.end()


def test_a_lag_that_grows_for_long_is_told_with_its_partition() -> None:
    watch = LagWatch(60)
    for at in range(0, 180, 5):
        watch.note({0: 500, 1: 3 * at, 2: 400 + (at % 10) * 90}, at)
        if at < 60:
            assert watch.problem(at) == ""
    assert watch.problem(175).startswith("the lag of partition 1 (525 records) grows: add updaters")
    watch.note({0: 500}, 180)  # it is another updater's now
    assert watch.problem(180) == ""


def test_a_lag_that_cannot_be_asked_for_is_a_problem_though_polls_find_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_self: MovingSource, timeout_s: float) -> Mapping[int, int]:
        raise ServiceUnavailable("Kafka", "toy", timeout_s)

    setting.start()
    setting.wait_until_applied(1)
    with monkeypatch.context() as broker:
        broker.setattr(MovingSource, "lag", away)
        setting.pass_time(12)
        assert setting.found() == {LAG_UNKNOWN: "Kafka at toy did not answer within 2 s"}
    setting.pass_time(12)
    assert setting.found() == {}


def test_a_failing_update_is_a_problem_while_it_fails(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_self: MovingSource, timeout_s: float) -> Sequence[Any]:
        raise ServiceUnavailable("Kafka", "toy", timeout_s)

    with monkeypatch.context() as broker:
        broker.setattr(MovingSource, "poll", away)
        setting.start()
        eventually(lambda: "Kafka at toy" in setting.found().get(UPDATE_FAILING, ""))
    eventually(lambda: setting.found() == {})


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


def test_a_version_that_is_dropped_and_published_again_is_taken_over_anew(followed: Followed) -> None:
    followed.store.activate("v1")
    followed.store.stage("v2")
    followed.follower.look()
    followed.store.stage(None)
    followed.store.drop_version("v2")
    followed.store.create_version(dataclasses.replace(INFO, model_version="v2", published_ms=9))
    followed.store.stage("v2")
    followed.follower.look()
    assert followed.log == ["make v1", "make v2", "end v2", "make v2"]


def test_whatever_is_wrong_with_a_staged_version_the_active_one_goes_on(followed: Followed) -> None:
    def make(info: VersionInfo) -> str:
        if info.model_version == "v2":
            raise KeyError("a newer format")
        return followed.make(info)

    followed.follower._make = make
    followed.store.activate("v1")
    followed.store.stage("v2")
    followed.follower.look()
    assert followed.follower.parts == {"v1": "v1"}


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
