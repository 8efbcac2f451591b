"""An owner of user states in a process of its own (`main`), that stops in a given step: to be killed there, or woken later."""

import logging
import os
import signal
import time
from pathlib import Path

from mind_dist.config import KafkaConfig, StatesConfig
from mind_dist.errors import MindDistError
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater, UpdateStep

logger = logging.getLogger(__name__)

MAX_HISTORY = 10


def kafka_config(topic: str) -> KafkaConfig:
    """Return settings with small batches, and times as short as brokers allow."""
    return KafkaConfig(
        topic,
        f"{topic}-dead",
        f"{topic}-states",
        max_poison_fraction=1.0,
        max_poll_records=25,
        session_timeout_s=6,
        transaction_timeout_s=5,
        group_prefix=f"{topic}-",
        connect_timeout_s=20,
        metadata_max_age_s=2,
    )


class StopsAt:
    """Freezes this process the `count`-th time that a step is entered."""

    def __init__(self, step: int, count: int) -> None:
        self._step = step
        self._left = count

    def __call__(self, step: UpdateStep) -> None:
        """Count a step."""
        self._left -= step == self._step
        if step == self._step and self._left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)


def owner(address: str, topic: str, folder: Path, stops_at: StopsAt) -> StatesUpdater:
    """Return an owner on a real broker."""
    config = StatesConfig(max_history=MAX_HISTORY, directory=str(folder))
    return states_on_kafka(address, kafka_config(topic), config, "int64", shared=SharedStores(6), on_step=stops_at)


def main(address: str, topic: str, folder: Path, stops_at: StopsAt) -> None:
    """Take over, and go on for ever."""
    updater = owner(address, topic, folder, stops_at)
    while True:
        try:
            updater.step(0.1)
        except MindDistError:
            logger.exception("tried again")
            time.sleep(0.1)
