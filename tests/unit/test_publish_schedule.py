"""A run that saves versions while they are published on a schedule, over the in-memory store: what readers are on."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import PublishConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ServiceUnavailable
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import VectorStore, VersionInfo
from mind_dist.observability import InMemoryMetrics
from mind_dist.publishing import FollowedRun, PublishedCopies, ScheduledPublisher, publish_from_run, rollback
from mind_dist.publishing.one_at_a_time import only_publisher
from mind_dist.publishing.schedule import Outcome
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions
from tests.versions import tiny_version

CONFIG = PublishConfig(wait_for_users=False, keep=1, lease_s=0.5, max_recall_drop=1.0)


class World:
    """A run, an index, and what publishes from the one to the other."""

    def __init__(self, path: Path) -> None:
        self.versions = RunVersions(Directory.at(path / "run"))
        self.store = InMemoryVectorStore()
        self.metrics = InMemoryMetrics()
        self.copies = PublishedCopies(self.versions.directory / "published" / "index")
        self.stopped = False
        self.slept_s: list[float] = []

    def save(self, step: int) -> str:
        """Save a version as training does, and return its name."""
        uri = tiny_version(Path(self.versions.place(step).path), seed=step)
        self.versions.keep(step, 2)
        return ModelVersion.open(uri, verify=False).manifest.model_version

    def find(self, verify: bool) -> tuple[ModelVersion | None, tuple[str, ...]]:
        found = self.versions.best_whole(verify=verify)
        return found.version, found.damaged

    def publisher(self, **options: Any) -> ScheduledPublisher:
        open_store: Callable[..., Any] = options.pop("open_store", lambda _sleep: nullcontext(self.store))
        find = options.pop("find", self.find)
        settings = {"catch_up": lambda: None, "should_stop": lambda: self.stopped, "sleep": self.sleep, **options}
        config = settings.pop("config", CONFIG)
        return ScheduledPublisher(FollowedRun(find, self.copies), open_store, config, self.metrics, **settings)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    def copied(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self.copies.directory.files()})

    def check_readers(self, model_version: str) -> None:
        """Check that readers are on a version, and that a replica can load it and every other one that the index has."""
        assert self.store.active_version() == model_version
        for info in self.store.versions():
            assert InterestEncoder.load(info.uri).model_version == info.model_version


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def _lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "mind_dist.publishing.schedule"]


def test_readers_follow_a_run_whose_versions_go_and_so_do_the_copies_of_retired_ones(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = world.publisher()
    assert publisher.turn().outcome == Outcome.NOTHING_SAVED
    names = []
    for step in range(1, 6):
        names.append(world.save(step))
        assert publisher.turn().outcome == Outcome.PUBLISHED
        world.check_readers(names[-1])
        assert publisher.turn().outcome == Outcome.UNCHANGED
        assert world.copied() == names[-2:]
    lines = told(caplog)
    assert [line["outcome"] for line in lines] == ["nothing_saved", *("published", "unchanged") * 5]
    assert lines[-2]["active"] == lines[-2]["newest"] == names[-1]
    assert lines[-2]["retired"] == names[-3]
    assert 0 <= lines[-2]["saved_age_s"] < 3600
    assert world.metrics.values["mind_dist_published_versions"] == 5
    assert "mind_dist_publish_failures" not in world.metrics.values


def test_a_version_that_goes_while_it_is_copied_is_told_and_the_next_turn_takes_a_newer_one(world: World) -> None:
    first = world.save(1)
    publisher = world.publisher()
    publisher.turn()
    world.save(2)
    stale = world.find(True)
    for step in (3, 4):
        newest = world.save(step)
    racing = world.publisher(find=lambda _verify: stale)
    turn = racing.turn()
    assert turn.outcome == Outcome.VERSION
    assert "is missing" in turn.problem
    world.check_readers(first)
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(newest)
    assert world.metrics.values["mind_dist_publish_failures"] == 1


def test_a_damaged_version_is_told_and_readers_stay_or_get_the_one_before(world: World) -> None:
    publisher = world.publisher()
    names = [world.save(1), world.save(2)]
    (Path(world.versions.place(2).path) / "catalog.parquet").write_bytes(b"torn")
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(names[0])
    turn = publisher.turn()
    assert turn.outcome == Outcome.VERSION
    assert "catalog.parquet is torn" in turn.problem
    world.check_readers(names[0])
    shutil.rmtree(world.versions.place(1).path)
    assert publisher.turn().outcome == Outcome.VERSION
    world.check_readers(names[0])


def test_readers_do_not_go_back_where_a_run_falls_back(world: World) -> None:
    publisher = world.publisher()
    world.save(1)
    second = world.save(2)
    publisher.turn()
    (Path(world.versions.place(2).path) / "manifest.json").rename(world.versions.place(2).path + "/damaged")
    (Path(world.versions.directory.path) / "versions.json").unlink()
    assert publisher.turn().outcome == Outcome.OLDER
    world.check_readers(second)


def test_readers_follow_a_run_that_was_begun_anew_though_its_steps_are_fewer(world: World) -> None:
    publisher = world.publisher()
    world.save(9)
    publisher.turn()
    for left in (world.versions.place(9), world.versions.directory / "versions.json"):
        left.delete()
    assert publisher.turn().outcome == Outcome.NOTHING_SAVED
    name = world.save(1)
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(name)


def test_a_version_that_does_not_pass_is_tried_again_by_a_new_publisher_or_when_there_is_a_newer_one(
    world: World,
) -> None:
    strict = world.publisher(config=replace(CONFIG, min_recall=0.5))
    name = world.save(1)
    turns = [strict.turn() for _ in range(3)]
    assert [turn.outcome for turn in turns] == [Outcome.REFUSED, Outcome.STILL_REFUSED, Outcome.STILL_REFUSED]
    assert all("has no recall@50" in turn.problem for turn in turns)
    assert (world.store.active_version(), world.copied()) == (None, [])
    world.save(2)
    assert strict.turn().outcome == Outcome.REFUSED
    assert world.metrics.values["mind_dist_publish_failures"] == 2
    assert name not in {info.model_version for info in world.store.versions()}
    assert world.publisher().turn().outcome == Outcome.PUBLISHED


def test_updaters_that_are_late_are_waited_for_again_in_the_next_turn(world: World) -> None:
    name = world.save(1)
    answers: Iterator[bool] = iter([False, True])
    config = replace(CONFIG, wait_for_users=True, catch_up_s=0.0)
    publisher = world.publisher(config=config, catch_up=lambda: lambda _info: next(answers))
    assert publisher.turn().outcome == Outcome.USERS_BEHIND
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(name)


def test_what_an_operator_went_back_from_waits_for_a_newer_version(world: World) -> None:
    publisher = world.publisher()
    names = []
    for step in (1, 2):
        names.append(world.save(step))
        publisher.turn()
    rollback(world.store, config=CONFIG)
    for again in (publisher, world.publisher()):
        assert again.turn().outcome == Outcome.ROLLED_BACK
        world.check_readers(names[0])
    newest = world.save(3)
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(newest)


def test_a_version_that_was_gone_back_from_is_published_by_hand_and_after_the_index_was_wiped(world: World) -> None:
    publisher = world.publisher()
    for step in (1, 2):
        name = world.save(step)
        publisher.turn()
    rollback(world.store, config=CONFIG)
    version, _ = world.find(True)
    assert version is not None
    publish_from_run(world.store, version, world.copies, CONFIG)
    world.check_readers(name)
    world.store = InMemoryVectorStore()
    assert publisher.turn().outcome == Outcome.PUBLISHED
    world.check_readers(name)


def test_another_publishers_turn_is_waited_for(world: World) -> None:
    name = world.save(1)
    beating = replace(CONFIG, lease_s=0.2)
    with only_publisher(world.store.publish_lock(), 0.2):
        turn = world.publisher(config=beating, sleep=time.sleep).turn()
    assert (turn.outcome, world.copied()) == (Outcome.UNDER_WAY, [])
    assert "another publish is under way: process" in turn.problem
    assert "mind_dist_publish_failures" not in world.metrics.values
    assert world.publisher().turn().outcome == Outcome.PUBLISHED
    world.check_readers(name)


class Away:
    """An index that is away for so many turns."""

    def __init__(self, world: World, turns: int) -> None:
        self.world, self.turns = world, turns

    @contextmanager
    def __call__(self, _sleep: object) -> Iterator[VectorStore]:
        self.turns -= 1
        if self.turns >= 0:
            raise ServiceUnavailable("Milvus", "http://milvus:19530", 30.0, "connection refused")
        yield self.world.store
        self.world.stopped = True


def test_a_service_that_is_away_is_asked_again_ever_later_and_no_later_than_the_next_turn(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    name = world.save(1)
    world.publisher(open_store=Away(world, 4)).run(every_s=30.0)
    world.check_readers(name)
    assert [line["outcome"] for line in told(caplog)] == [*("unavailable",) * 4, "published"]
    assert all("Milvus at http://milvus:19530 did not answer" in line["why"] for line in told(caplog)[:4])
    assert 5 + 10 + 20 + 30 <= sum(world.slept_s) <= 1.5 * (5 + 10 + 20) + 30 + 1
    assert world.metrics.values["mind_dist_publish_failures"] == 4


def test_a_storage_that_is_away_is_no_end(world: World) -> None:
    def find(_verify: bool) -> tuple[ModelVersion | None, tuple[str, ...]]:
        raise OSError("AWS Error NETWORK_CONNECTION")

    turn = world.publisher(find=find).turn()
    assert (turn.outcome, turn.problem) == (Outcome.UNAVAILABLE, "AWS Error NETWORK_CONNECTION")


@pytest.mark.parametrize("at", ["copying", "filling", "waiting for users"])
def test_asked_to_stop_in_a_publish_it_ends_there_and_the_next_start_publishes(world: World, at: str) -> None:
    first = world.save(1)
    world.publisher().turn()
    second = world.save(2)
    asked = 0
    before = {"copying": 1, "filling": 6, "waiting for users": 10**9}[at]  # a version has few files, each one block

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return world.stopped or asked > before

    def behind(_info: VersionInfo) -> bool:
        world.stopped = at == "waiting for users"
        return not world.stopped

    config = replace(CONFIG, wait_for_users=True, batch_size=10)
    publisher = world.publisher(config=config, should_stop=should_stop, catch_up=lambda: behind)
    assert publisher.turn().outcome == Outcome.STOPPED
    publisher.run(every_s=3600.0)
    world.check_readers(first)
    assert world.store.staged_version() is None
    world.stopped = False
    assert world.publisher().turn().outcome == Outcome.PUBLISHED
    world.check_readers(second)


def test_the_age_of_the_active_watermark_is_shown(world: World) -> None:
    world.save(1)
    publisher = world.publisher()
    publisher.turn()
    assert "mind_dist_active_watermark_age_seconds" not in world.metrics.values, "these versions have no events"
    [info] = world.store.versions()
    world.store = InMemoryVectorStore()
    world.store.create_version(replace(info, watermark_ms=1_000))
    world.store.activate(info.model_version)
    assert publisher.turn().outcome == Outcome.UNCHANGED
    assert world.metrics.values["mind_dist_active_watermark_age_seconds"] > 1e9
