"""The threads of serving: an update loop around its updater, a follower around the wanted versions."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.errors import ServiceUnavailable, UpdaterStopped, VersionError
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow, VersionInfo
from mind_dist.serving.update_loop import OnStep, UpdateLoop
from mind_dist.serving.updater import UserVectorUpdater
from mind_dist.serving.version_follower import VersionFollower
from tests.toy_serving import INFO, POISON, VERSION, Run, click, log_of, toy_config, toy_store


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
        self.loop = UpdateLoop(VERSION, self.build, config, self.run.clock)

    def build(self, on_step: OnStep) -> UserVectorUpdater:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("Kafka", "toy", 1.0)
        return self.run.updater(on_step)

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


class Followed:
    """A follower whose parts are names, and what it made and ended."""

    def __init__(self) -> None:
        self.store = InMemoryVectorStore()
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.follower = VersionFollower(self.store, self.make, self.end, poll_s=0.01)

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


def test_a_version_that_is_gone_is_named(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    followed.store.activate("v1")
    monkeypatch.setattr(followed.store, "versions", list)
    with pytest.raises(VersionError, match="v1: not in the vector store"):
        followed.follower.look()
