"""A Kafka broker: reaching it, its topics, and its client's errors, which end here.

Written for kafka-python 3.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.net.compat import KafkaNetClient

from mind_dist.errors import ConfigError, ServiceUnavailable

_RECONNECT_BACKOFF_MAX_MS = 1000  # the client's own 30 s would lag a recovered broker by half a minute


def wait_for_broker(bootstrap: str, timeout_s: float) -> None:
    """Return when a broker answers.

    Raises:
        ServiceUnavailable: None did within `timeout_s`.
    """
    with _admin(bootstrap, timeout_s) as admin:
        admin.describe_cluster()


def ensure_topics(
    bootstrap: str, num_partitions: Mapping[str, int], *, replication: int = -1, timeout_s: float = 30.0
) -> None:
    """Create the topics that are not there, and return when all are ready; topics that are there stay as they are.

    Args:
        bootstrap: Addresses of brokers.
        num_partitions: Topic → partitions it gets if it is created.
        replication: Copies of each partition; -1 leaves it to the broker.
        timeout_s: Bound of each step.

    Raises:
        ServiceUnavailable: The broker did not answer in time, or refused.
    """
    # Records are stamped as the log takes them: that is what freshness counts from, and retention too.
    wanted = {"replication_factor": replication, "configs": {"message.timestamp.type": "LogAppendTime"}}
    topics = {topic: {"num_partitions": count, **wanted} for topic, count in num_partitions.items()}
    with _admin(bootstrap, timeout_s) as admin:
        for topic, settings in topics.items():
            try:
                admin.create_topics({topic: settings}, timeout_ms=int(timeout_s * 1000))
            except TopicAlreadyExistsError:
                continue
        admin.wait_for_topics(list(topics), timeout_ms=int(timeout_s * 1000))


def num_partitions(bootstrap: str, topic: str, *, timeout_s: float = 30.0) -> int:
    """Return how many partitions a topic has.

    Raises:
        ConfigError: There is no such topic.
        ServiceUnavailable: The broker did not answer in time.
    """
    with _admin(bootstrap, timeout_s) as admin:
        [description] = admin.describe_topics([topic])
    if not description["partitions"]:
        raise ConfigError("kafka.topic", f"there is no topic {topic!r} at {bootstrap}: create it, or replay into it")
    return len(description["partitions"])


@contextmanager
def _admin(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    admin = connect(KafkaAdminClient, bootstrap, timeout_s, request_timeout_ms=int(timeout_s * 1000))
    try:
        with translated(bootstrap):
            yield admin
    finally:
        admin.close()


def connect(client: type, bootstrap: str, timeout_s: float, **settings: Any) -> Any:
    """Return a client that has reached a broker; a failed attempt leaves no thread behind."""
    started: list[Any] = []

    def network(**configs: Any) -> Any:
        started.append(KafkaNetClient(**configs))
        return started[-1]

    try:
        with translated(bootstrap):
            return client(
                bootstrap_servers=bootstrap.split(","),
                bootstrap_timeout_ms=int(timeout_s * 1000),
                reconnect_backoff_max_ms=_RECONNECT_BACKOFF_MAX_MS,
                kafka_client=network,
                **settings,
            )
    except ServiceUnavailable:
        for each in started:
            each.close()
        raise


@contextmanager
def translated(address: str, passing: tuple[type[KafkaError], ...] = ()) -> Iterator[None]:
    """Turn the client's errors, but for those passing, into `ServiceUnavailable`."""
    start_s = time.monotonic()
    try:
        yield
    except passing:
        raise
    except KafkaError as error:
        raise ServiceUnavailable("Kafka", address, time.monotonic() - start_s, str(error)) from error
