"""Training from a topic through Ray Train to its end, also when partitions are added meanwhile.

`MIND_DIST_DRILL_EVENTS=60000` trains on more events than the suite has time for.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ray
from kafka import KafkaAdminClient

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses
from mind_dist.errors import AnotherLog, StoppedBeforeSaving
from mind_dist.log.kafka import ensure_topics, log_identity
from mind_dist.training import topic_growth
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import TrainProgress
from tests.growing_topic import GROWING_BROKERS, NUM_EVENTS, Drill
from tests.services import BROKERS

QUIET_S = 4.0
"""A followed run that has done no step for so long has trained all that there is."""

where_topics_grow = pytest.mark.parametrize("broker", GROWING_BROKERS)


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


def train(drill: Drill) -> ModelVersion:
    return ModelVersion.open(train_on_ray(drill.settings, Addresses(kafka=drill.broker)).version_uri)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_topic_is_trained_to_its_end(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path)
    drill.send(NUM_EVENTS)
    drill.check(train(drill), partitions=4)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_stop_before_anything_was_trained_is_no_failure(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path, workers=0, follow=True)
    with pytest.raises(StoppedBeforeSaving, match="run 'drill' was stopped before it had trained anything"):
        train_on_ray(drill.settings, Addresses(kafka=drill.broker), should_stop=lambda: True)


@where_topics_grow
def test_a_followed_topic_that_grows_is_trained_in_all_its_partitions(
    broker: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(topic_growth, "_ASK_EVERY_S", 1.0)
    drill = Drill(request.getfixturevalue(broker), tmp_path, follow=True)
    drill.send(NUM_EVENTS // 2)
    step_at_s = {0: time.monotonic()}
    grown_at_s: list[float] = []

    def note(progress: TrainProgress) -> None:
        step_at_s.setdefault(progress.step, time.monotonic())
        if progress.step > 10 and drill.num_sent < NUM_EVENTS:
            drill.grow(5)
            drill.send(NUM_EVENTS)

    def is_quiet() -> bool:
        if not grown_at_s and "going on with all" in caplog.text:
            grown_at_s.append(time.monotonic())
        last_s = max(step_at_s.values())
        return bool(grown_at_s) and last_s > grown_at_s[0] and time.monotonic() - last_s > QUIET_S

    with caplog.at_level(logging.INFO, logger="mind_dist"):
        result = train_on_ray(drill.settings, Addresses(kafka=drill.broker), on_progress=note, should_stop=is_quiet)
    assert f"topic {drill.kafka.topic} has grown from 4 to 5 partitions: going on with all" in caplog.messages
    drill.check(ModelVersion.open(result.version_uri), partitions=5)


@where_topics_grow
def test_a_run_goes_on_with_a_topic_that_has_grown_since_and_refuses_one_that_was_made_anew(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path, workers=0)
    drill.send(NUM_EVENTS // 3)
    train(drill)
    drill.send(NUM_EVENTS // 2)  # the run has not seen these when the topic grows
    drill.grow(7)
    drill.send(NUM_EVENTS)
    drill.check(train(drill), partitions=7)
    with closing(KafkaAdminClient(bootstrap_servers=drill.broker)) as admin:
        admin.delete_topics([drill.kafka.topic])
    ensure_topics(drill.broker, {drill.kafka.topic: 7})
    now = log_identity(drill.broker, drill.kafka.topic)
    with pytest.raises(AnotherLog, match=f"has positions of .*there is now {re.escape(str(now))}.* another --name"):
        train(drill)


@where_topics_grow
def test_a_run_may_begin_with_a_topic_that_had_grown_before(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(request.getfixturevalue(broker), tmp_path, workers=0)
    drill.send(NUM_EVENTS // 3)
    drill.grow(5)
    drill.send(NUM_EVENTS // 2)
    drill.grow(8)
    drill.send(NUM_EVENTS)
    drill.check(train(drill), partitions=8)
