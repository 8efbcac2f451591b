"""The whole way of events to rows, killed with -9 in each step, on a real broker and a real Milvus."""

import dataclasses
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mind_dist.config import MilvusConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.records import MAX_TIES
from mind_dist.states.updater import UpdateStep
from tests.kafka_logs import read_all, send
from tests.services import BROKERS
from tests.state_worlds import FEATURES, mixed_log
from tests.states_process import MAX_HISTORY, kafka_config
from tests.versions import tiny_version
from tests.view_oracle import Rows, bits, expected_rows
from tests.views_process import PARTITIONS, Owner, Place, ViewStep

USERS, EVENTS = 20, 300
VALUES = [("event_type", "click"), ("event_type", "buy")]
REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 120


class World:
    """A topic with all that real ones have, and a version whose rows are made of it."""

    def __init__(self, kafka: str, milvus: str, folder: Path, seed: int) -> None:
        uri, topic = (
            tiny_version(folder / "version", seed=seed, features=FEATURES, values=VALUES),
            f"killed-{uuid.uuid4().hex}",
        )
        self.place = Place(kafka, milvus, topic, uri, str(folder / "states"))
        self.config = kafka_config(topic)
        ensure_event_topics(kafka, self.config, PARTITIONS)
        self.encoder = InterestEncoder.load(uri)
        version, length = self.encoder.model_version, self.encoder.max_behaviors + MAX_TIES
        self.store = MilvusVectorStore(milvus, MilvusConfig(index="FLAT"), deployment=self.place.deployment)
        info = VersionInfo(version, 8, 3, "cosine", uri, length, published_ms=1, behavior_features=FEATURES.behavior)
        self.store.create_version(info)
        send(kafka, topic, mixed_log(EVENTS, USERS, seed), PARTITIONS)

    def die_at(self, step: int, count: int) -> None:
        """Run an owner until it dies there."""
        command = [sys.executable, "-m", "tests.views_process", str(step), str(count), *self.place]
        with subprocess.Popen(command, cwd=REPOSITORY) as process:
            try:
                assert process.wait(WITHIN_S) == -signal.SIGKILL
            finally:
                process.kill()

    def finish(self) -> None:
        """Take over, and work until all is applied and written."""
        with closing(Owner(self.place, lambda _step: None)) as owner:
            give_up_s = time.monotonic() + WITHIN_S
            done_s = None
            while done_s is None or time.monotonic() < done_s + 2:  # what an owner before left under way is redone
                assert time.monotonic() < give_up_s
                owner.step()
                is_done = self._is_done(owner)
                done_s = (done_s or time.monotonic()) if is_done else None

    def _is_done(self, owner: Owner) -> bool:
        stores, _ = owner.shared.owned()
        if len(stores) < PARTITIONS or any(owner.states.lag(5).values()):
            return False
        return all(owner.view.positions.get(p, 0) >= store.position for p, store in stores.items())

    def rows(self) -> Rows:
        """Return what is in the index."""
        return {row.user_key: bits(row) for row in self.store.scan_users(self.encoder.model_version)}

    def expected(self) -> Rows:
        """Return what must be there."""
        of_states = dataclasses.replace(self.config, topic=self.config.states_topic)
        events, states = (read_all(self.place.kafka, each, PARTITIONS) for each in (self.config, of_states))
        return expected_rows(events, states, self.encoder, MAX_HISTORY)


@pytest.mark.parametrize("milvus", ["milvus_lite", "milvus_standalone"])
def test_killed_in_any_step_it_ends_in_the_rows_of_the_whole_log(
    milvus: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kafka, server = request.getfixturevalue(BROKERS[-1]), request.getfixturevalue(milvus)
    steps = [*UpdateStep, *ViewStep] if milvus == "milvus_lite" else list(ViewStep)

    def one(step: int) -> None:
        world = World(kafka, server, tmp_path / str(step), seed=1000 * len(milvus) + step)
        with closing(world.store):
            world.die_at(step, count=12 if step == UpdateStep.POLL else 4)
            world.finish()
            assert world.rows() == world.expected(), step
            world.store.drop_version(world.encoder.model_version)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, map(int, steps)))
