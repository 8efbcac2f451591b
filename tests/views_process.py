"""User states and the rows of one version in a process of its own (`main`), that dies in a given step.

Steps 1 to 7 are those of an update, the others those of `ViewStep`.
"""

import enum
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mind_dist.config import MilvusConfig, StatesConfig, ViewsConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import MindDistError
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import UserRow
from mind_dist.log.source import InMemoryDeadLetters
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import Positions
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import UpdateStep
from mind_dist.views.positions import KafkaViewPositions
from mind_dist.views.view import View
from tests.states_process import MAX_HISTORY, kafka_config

logger = logging.getLogger(__name__)

PARTITIONS = 2
VIEWS = ViewsConfig(batch_size=8, store_s=0, settle_s=1, audit_s=0)


class ViewStep(enum.IntEnum):
    """Where a view can die."""

    UPSERT = 8
    UPSERTED = 9
    STORE_POSITION = 10
    STORED_POSITION = 11


OnStep = Callable[[UpdateStep | ViewStep], None]


class SteppedStore(MilvusVectorStore):
    """Milvus, that tells when rows are written."""

    on_step: OnStep

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        """Write rows."""
        self.on_step(ViewStep.UPSERT)
        super().upsert_users(model_version, rows)
        self.on_step(ViewStep.UPSERTED)


class SteppedPositions(KafkaViewPositions):
    """Positions in Kafka, that tell when they are stored."""

    on_step: OnStep

    def store(self, positions: Positions, notes: Mapping[int, str]) -> None:
        """Store positions."""
        self.on_step(ViewStep.STORE_POSITION)
        super().store(positions, notes)
        self.on_step(ViewStep.STORED_POSITION)


class Place(NamedTuple):
    """Where an owner works.

    Attributes:
        kafka: Address of the broker.
        milvus: URI of the server.
        topic: The events.
        uri: The model version.
        folder: For the local stores.
    """

    kafka: str
    milvus: str
    topic: str
    uri: str
    folder: str

    @property
    def deployment(self) -> str:
        """Whose versions these are: others at the same server forget users of their own."""
        return self.topic.replace("-", "_")


class Owner:
    """An owner of all partitions it gets, and of the rows of one version."""

    def __init__(self, place: Place, on_step: OnStep) -> None:
        config = kafka_config(place.topic)
        encoder = InterestEncoder.load(place.uri)
        index = SteppedStore(place.milvus, MilvusConfig(index="FLAT"), deployment=place.deployment)
        info = next(each for each in index.versions() if each.model_version == encoder.model_version)
        self.shared = SharedStores(config.session_timeout_s)
        states = StatesConfig(max_history=MAX_HISTORY, directory=place.folder)
        self.states = states_on_kafka(place.kafka, config, states, "int64", shared=self.shared, on_step=on_step)
        positions = SteppedPositions(place.kafka, config, info, PARTITIONS)
        index.on_step = positions.on_step = on_step
        self.view = View(
            encoder,
            index,
            positions,
            InMemoryDeadLetters(),
            states.kept_features,
            config=VIEWS,
            metrics=InMemoryMetrics(),
            may_write=self.shared.is_ours,
        )

    def step(self) -> None:
        """Take some events in, and write some rows; what fails is tried again by the next one."""
        try:
            self.states.step(0.05)
            self.view.step(*self.shared.owned())
        except MindDistError as error:
            logger.warning("tried again", extra={"fields": {"error": error}})
            time.sleep(0.1)

    def close(self) -> None:
        """Leave."""
        self.view.close()
        self.states.close()


def main(step: int, count: int, place: Place) -> None:
    """Take over, and go on until death, the `count`-th time that the step is entered."""
    left = count

    def die_at(entered: UpdateStep | ViewStep) -> None:
        nonlocal left
        left -= entered == step
        if entered == step and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    owner = Owner(place, die_at)
    while True:
        owner.step()
