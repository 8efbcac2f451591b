"""A version of a dataset → a stream that goes on with it on Ray: what is newer is trained once, and asked for before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import Addresses
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.ahead import ask_ahead
from mind_dist.log.kafka_groups import end_positions
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import Look, TrainProgress
from tests.growing_topic import Drill
from tests.services import BROKERS
from tests.toy_training import TRAINING, toy_users

QUIET_S = 4.0
NEW_ITEMS = range(900, 910)
NUM_NEW_EVENTS = 6000
NEWER_MS = 20_000
"""All of the dataset is older."""


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_stream_goes_on_behind_a_version_of_a_dataset(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    drill = Drill(
        request.getfixturevalue(broker), tmp_path, follow=True, eval_every=5, checkpoint_every_s=1.0, num_to_keep=3
    )
    addresses = Addresses(kafka=drill.broker)
    of_dataset = replace(drill.settings, source="parquet", follow=False, name="first", training=TRAINING, workers=0)
    first = ModelVersion.open(train_on_ray(of_dataset, addresses).version_uri)
    known = [
        (user.user_key, int(item), int(time_ms))
        for user in toy_users()
        for item, time_ms in zip(user.item_keys, user.timestamps_ms, strict=True)
    ]
    generator = np.random.default_rng(3)
    users = generator.integers(1, 25, size=NUM_NEW_EVENTS).tolist()
    items = generator.choice([*NEW_ITEMS, *range(1, 30)], size=NUM_NEW_EVENTS).tolist()
    newer = [(user, item, NEWER_MS + at) for at, (user, item) in enumerate(zip(users, items, strict=True))]
    drill.events = sorted(known, key=lambda event: event[2]) + newer
    drill.send(len(known) + NUM_NEW_EVENTS // 2)
    steps, saved, looks = {0: time.monotonic()}, set[str](), list[Look]()

    def note(progress: TrainProgress) -> None:
        steps.setdefault(progress.step, time.monotonic())
        saved.update(name for name in drill.settings.versions.directory.files() if name.endswith("manifest.json"))
        if progress.step >= 10 and drill.num_sent < len(drill.events):
            drill.send(len(drill.events))

    def is_quiet() -> bool:
        sent = drill.num_sent == len(drill.events)
        return sent and time.monotonic() - max(steps.values()) > QUIET_S

    settings = replace(drill.settings, init_from=first.uri)
    result = train_on_ray(
        settings, addresses, on_progress=note, on_look=looks.append, should_stop=is_quiet, ask_ahead=ask_ahead
    )
    version = ModelVersion.open(result.version_uri)
    assert version.manifest.positions == end_positions(drill.broker, drill.kafka)
    assert version.manifest.known_until_ms == first.manifest.watermark_ms < NEWER_MS
    assert version.manifest.metrics["num_known_events"] == len(known)
    before = first.items()
    counts = dict(zip(version.items().keys.tolist(), version.items().counts.tolist(), strict=True))
    grown = sum(counts.values()) - int(before.counts.sum())
    newcomers = {user for user, _, _ in newer} - {user for user, _, _ in known}
    assert grown == NUM_NEW_EVENTS - len(newcomers), "each newer event once, but for a newcomer's first"
    catalog = PreparedDataset.open(drill.settings.dataset).catalog()
    expected = np.setdiff1d(np.array(items), catalog.keys)
    assert set(NEW_ITEMS) <= set(expected.tolist())
    assert np.setdiff1d(version.catalog().keys, catalog.keys).tolist() == expected.tolist()
    assert set(NEW_ITEMS) <= set(InterestEncoder(version).item_keys.tolist())
    assert [look.of for look in looks] == ["progressive"] * len(looks)
    assert len(looks) >= version.manifest.step // 5 - 1
    assert 0 < result.metrics["progressive_recall@50"] <= 1
    assert len(saved) > 1, "it was saved on the way"
