"""An updater in this process, as `jobs.serve` has it in its replicas: states and views, followed versions and all."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig, StatesConfig, dump
from mind_dist.serving.ray_app import UpdaterReplica


def kafka_config(topic: str) -> KafkaConfig:
    """Return a topic of events and those that belong to it, of a test that shares its broker with others."""
    return KafkaConfig(topic, f"{topic}-dead", f"{topic}-states", connect_timeout_s=10, session_timeout_s=6)


def kafka_arguments(config: KafkaConfig) -> list[str]:
    """Return the topics as settings of a job's command line."""
    names = ("topic", "states_topic", "dead_letter_topic")
    return [f"--kafka.{name.replace('_', '-')}={getattr(config, name)}" for name in names]


@contextmanager
def updating(kafka: KafkaConfig, addresses: Addresses, folder: Path) -> Iterator[UpdaterReplica]:
    """Run an updater until the end; it owns all partitions when it is there.

    Args:
        kafka: The topics, as a job's settings have them: the deployment's name is added to their default ones.
        addresses: Where the services are.
        folder: For the local stores.
    """
    config = ServingConfig(
        kafka=kafka, milvus=MilvusConfig(index="FLAT"), states=StatesConfig(directory=str(folder)), version_poll_s=0.2
    )
    updater = UpdaterReplica(dump(config), addresses.shareable())
    try:
        eventually(lambda: updater.status()["states"].get("partitions"))
        yield updater
    finally:
        updater.__del__()


def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> float:
    """Return how long it took until a condition held, in seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + timeout_s, "did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started
