"""The topics of a deployment: how they are created, and that they are there before anything reads or writes them.

`cluster/topics.yaml` says the same to whoever creates them by hand, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.errors import BrokerResponseError, TopicAlreadyExistsError

from mind_dist.config import KafkaConfig
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.log.identity import LogIdentity
from mind_dist.log.kafka_broker import admin_client

EVENT_PARTITIONS = 16
"""Partitions of the events' topic where nothing else is asked for; they bound how many workers can share it."""

_SHARED_CONFIGS = {"message.timestamp.type": "LogAppendTime"}
"""Records are stamped as the log takes them: that is what freshness counts from, and retention too."""

_DAY_MS = 24 * 60 * 60 * 1000
EVENT_CONFIGS = {**_SHARED_CONFIGS, "retention.ms": str(14 * _DAY_MS)}
"""Longer than the oldest checkpoint or stopped updater that must still be able to resume."""
STATE_CONFIGS = {
    **_SHARED_CONFIGS,
    "cleanup.policy": "compact",
    "delete.retention.ms": str(7 * _DAY_MS),
    "max.message.bytes": str(4 * 1024 * 1024),
}
"""Of each user the newest state is kept for ever; that one is forgotten, for a week: views that come later begin anew."""
DEAD_LETTER_CONFIGS = {**_SHARED_CONFIGS, "retention.ms": str(30 * _DAY_MS)}


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
    topics = {
        topic: {"num_partitions": count, "replication_factor": replication, "configs": _SHARED_CONFIGS}
        for topic, count in num_partitions.items()
    }
    _create(bootstrap, topics, timeout_s)


def ensure_event_topics(bootstrap: str, config: KafkaConfig, partitions: int = EVENT_PARTITIONS) -> None:
    """Create the events' and the dead letters' topic where they are not there, as `cluster/topics.yaml` has them.

    Raises:
        ServiceUnavailable: The broker did not answer in time, or refused.
    """
    events = {"num_partitions": partitions, "replication_factor": -1, "configs": EVENT_CONFIGS}
    topics = {config.topic: events, config.dead_letter_topic: _DEAD_LETTERS}
    _create(bootstrap, topics, config.connect_timeout_s)
    ensure_state_topic(bootstrap, config)


def ensure_state_topic(bootstrap: str, config: KafkaConfig) -> None:
    """Create the topic of the users' states where it is not there, with as many partitions as the events have.

    Raises:
        ConfigError: There is no topic of events, or the states' has more partitions: the events' was made anew.
        ServiceUnavailable: The broker did not answer in time, or refused.
    """
    timeout_s = config.connect_timeout_s
    count = num_partitions(bootstrap, config.topic, timeout_s=timeout_s)
    states = {"num_partitions": count, "replication_factor": -1, "configs": STATE_CONFIGS}
    _create(bootstrap, {config.states_topic: states}, timeout_s)
    found = num_partitions(bootstrap, config.states_topic, timeout_s=timeout_s)
    if found > count:
        problem = f"{config.states_topic!r} has {found} partitions, {config.topic!r} {count}: they are states of another topic"
        raise ConfigError("kafka.states_topic", problem)


def ensure_dead_letter_topic(bootstrap: str, config: KafkaConfig) -> None:
    """Create the dead letters' topic where it is not there: the first poison record would stop its reader otherwise.

    Raises:
        ConfigError: The broker refuses; the message has the command that creates it.
        ServiceUnavailable: The broker did not answer in time.
    """
    topic = config.dead_letter_topic
    try:
        _create(bootstrap, {topic: _DEAD_LETTERS}, config.connect_timeout_s)
    except ServiceUnavailable as error:
        if not isinstance(error.__cause__, BrokerResponseError):
            raise
        raise ConfigError(
            "kafka.dead_letter_topic",
            f"there is no topic {topic!r} at {bootstrap}, and the broker refuses to make it ({error.__cause__}): "
            f"create it with {creation_command(bootstrap, topic, 1)}",
        ) from error


def num_partitions(bootstrap: str, topic: str, *, timeout_s: float = 30.0) -> int:
    """Return how many partitions a topic has.

    Raises:
        ConfigError: There is no such topic; the message has the command that creates it.
        ServiceUnavailable: The broker did not answer in time.
    """
    count = count_partitions(bootstrap, topic, timeout_s=timeout_s)
    if not count:
        command = creation_command(bootstrap, topic, EVENT_PARTITIONS)
        problem = f"there is no topic {topic!r} at {bootstrap}: create it with {command}, or let python -m jobs.replay --kafka.topic {topic} make it"
        raise ConfigError("kafka.topic", problem)
    return count


def count_partitions(bootstrap: str, topic: str, *, timeout_s: float = 30.0) -> int:
    """Return how many partitions a topic has; 0 where there is no such topic.

    Raises:
        ServiceUnavailable: The broker did not answer in time.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        [description] = admin.describe_topics([topic])
    return len(description["partitions"])


def log_identity(bootstrap: str, topic: str, *, timeout_s: float = 30.0) -> LogIdentity:
    """Return which topic of which cluster it is.

    Raises:
        ServiceUnavailable: The broker did not answer in time.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        [description] = admin.describe_topics([topic])
        cluster = admin.describe_cluster()
    topic_id = str(description.get("topic_id") or "")
    is_known = topic_id.strip("0-") != ""  # brokers without ids of topics tell one of zeros
    return LogIdentity(str(cluster.get("cluster_id") or ""), topic, topic_id if is_known else "")


def creation_command(bootstrap: str, topic: str, partitions: int) -> str:
    """Return the command line of a stock Kafka download that creates a topic.

    >>> creation_command("kafka:9092", "clicks", 4)
    'kafka-topics.sh --bootstrap-server kafka:9092 --create --topic clicks --partitions 4 --config message.timestamp.type=LogAppendTime'
    """
    configs = " ".join(f"--config {name}={value}" for name, value in _SHARED_CONFIGS.items())
    return (
        f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic} --partitions {partitions} {configs}"
    )


_DEAD_LETTERS = {"num_partitions": 1, "replication_factor": -1, "configs": DEAD_LETTER_CONFIGS}


def _create(bootstrap: str, topics: Mapping[str, Mapping[str, Any]], timeout_s: float) -> None:
    timeout_ms = int(timeout_s * 1000)
    with admin_client(bootstrap, timeout_s) as admin:
        found = {each["name"] for each in admin.describe_topics(list(topics)) if each["partitions"]}
        for topic in topics.keys() - found:  # asking first needs no right to create what is there
            try:
                admin.create_topics({topic: topics[topic]}, timeout_ms=timeout_ms)
            except TopicAlreadyExistsError:  # another process was faster
                continue
        admin.wait_for_topics(list(topics), timeout_ms=timeout_ms)
