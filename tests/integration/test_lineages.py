"""Killed anywhere and gone on with by any number of workers, a run trains each example once and comes to the same.

`MIND_DIST_DRILL_SEEDS=20` draws more runs than the suite has time for: 20 of each source, and either worker at each point of a save.
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from mind_dist.config import KafkaConfig, SampledConfig, TrainingConfig
from mind_dist.log.kafka import ensure_topics
from mind_dist.training.settings import TrainSettings
from tests.lineages import Group, Lineage, largest_difference, long_log
from tests.services import BROKERS
from tests.toy_training import FROM_LOG, MODEL, NUM_BUCKETS, TRAINING, write_dataset

SEEDS = range(int(os.environ.get("MIND_DIST_DRILL_SEEDS", "4")))

_ALL = 20
"""Seeds from which on either worker is killed at each point of a save, and not one of them."""

STEPS = 30
"""So many steps end no partition, so that four workers or one take the same from each in every step."""

ALL_ITEMS = SampledConfig(count=4000)
"""So many negatives that all items are: which rank draws them does not matter."""


@dataclass(frozen=True)
class World:
    """Where runs begin: all of them on the same data.

    Attributes:
        settings: Of any.
        path: Where they are.
        bootstrap: Brokers, for those on a log.
    """

    settings: TrainSettings
    path: Path
    bootstrap: str = ""

    def begin(self, name: str, **training: object) -> Lineage:
        """Begin a run."""
        config: TrainingConfig = dataclasses.replace(self.settings.training, **training)  # type: ignore[arg-type]
        settings = dataclasses.replace(self.settings, name=name, storage=str(self.path / "runs"), training=config)
        place = self.path / name
        place.mkdir()
        return Lineage(settings, place, self.bootstrap)


@pytest.fixture(params=["parquet", BROKERS[-1]])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    dataset = write_dataset(tmp_path / "dataset", users_per_block=2)
    if request.param == "parquet":
        training = dataclasses.replace(TRAINING, epochs=8, checkpoint_every_steps=4, max_steps=STEPS, lr_decay=False)
        return World(TrainSettings(dataset, "", model=MODEL, training=training), tmp_path)
    broker: str = request.getfixturevalue(request.param)
    training = dataclasses.replace(FROM_LOG, checkpoint_every_steps=4, max_steps=STEPS, admission_count=2)
    settings = TrainSettings(dataset, "", source="kafka", model=MODEL, training=training, kafka=written_log(broker))
    return World(settings, tmp_path, broker)


def written_log(broker: str) -> KafkaConfig:
    name = f"events-{uuid.uuid4().hex}"
    config = KafkaConfig(topic=name, dead_letter_topic=f"{name}-dead")
    ensure_topics(broker, {name: NUM_BUCKETS, config.dead_letter_topic: 1})
    log = long_log()
    with closing(KafkaProducer(bootstrap_servers=broker)) as producer:
        for partition in range(NUM_BUCKETS):
            for record in log.read(partition, 0, 10_000):
                producer.send(name, key=record.key, value=record.value, partition=partition)
    return config


def test_a_run_whose_workers_are_killed_anywhere_trains_each_example_once_and_comes_to_the_same(world: World) -> None:
    whole = {
        name: world.begin(f"whole-{name}", **options)
        for name, options in (("drawn", {}), ("all", {"negatives": ALL_ITEMS}))
    }
    for run in whole.values():
        run.train(Group(2))
        assert all(len(trained) == STEPS * 4 for trained in run.trained().values())
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        one_between = bool(seed % 2)
        expected = whole["all" if one_between else "drawn"]
        at = [int(draw.integers(expected.collectives(step))) for step in (15, 10)]
        killed = world.begin(f"killed-{seed}", negatives=expected.settings.training.negatives)
        first = Group(2, dies=(int(draw.integers(2)), at[0]))
        second = Group(1, dies=(0, at[1])) if one_between else Group(2, dies=(int(draw.integers(2)), at[1]))
        killed.train(first, second, Group(2))
        assert killed.trained() == expected.trained(), (seed, first, second)
        found, wanted = killed.newest(), expected.newest()
        assert found.manifest.positions == wanted.manifest.positions
        if one_between:
            assert largest_difference(found, wanted) < 1e-6, (seed, first, second)
        else:
            assert found.manifest.files == wanted.manifest.files, (seed, first, second)


@pytest.mark.parametrize("world", ["parquet"], indirect=True)
def test_killed_at_any_point_of_a_save_a_run_comes_to_the_same(world: World) -> None:
    whole = world.begin("whole", max_steps=7)
    whole.train(Group(2))
    first, last = whole.collectives(4), whole.collectives(5)
    assert last - first > 8
    for at in range(first, last):
        for rank in (0, 1) if len(SEEDS) >= _ALL else (at % 2,):
            killed = world.begin(f"killed-{at}-{rank}", max_steps=7)
            killed.train(Group(2, dies=(rank, at)), Group(2))
            assert killed.trained() == whole.trained(), (rank, at)
            assert killed.newest().manifest.files == whole.newest().manifest.files, (rank, at)
