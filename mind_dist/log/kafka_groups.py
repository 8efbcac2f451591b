"""Where consumer groups stand, and who is in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import KafkaSource, num_partitions
from mind_dist.log.kafka_broker import admin_client
from mind_dist.records import Positions

_POLL_S = 0.05


@contextmanager
def _whole_topic(bootstrap: str, config: KafkaConfig, group: str) -> Iterator[KafkaSource]:
    """Yield a source of all partitions that speaks for a group without joining it."""
    count = num_partitions(bootstrap, config.topic, timeout_s=config.connect_timeout_s)
    source = KafkaSource(bootstrap, config, group, partitions=range(count))
    try:
        yield source
    finally:
        source.close()


def has_members(bootstrap: str, config: KafkaConfig, group: str) -> bool:
    """Tell whether anybody is in a group now.

    Raises:
        ServiceUnavailable: The broker did not answer in time.
    """
    with admin_client(bootstrap, config.connect_timeout_s) as admin:
        described = admin.describe_groups([group])
    return any(each["members"] for each in described.values())


def end_positions(bootstrap: str, config: KafkaConfig) -> Positions:
    """Return the position after the newest record of each partition of the topic.

    Raises:
        ServiceUnavailable: The broker did not answer in time.
    """
    with _whole_topic(bootstrap, config, "") as source:
        return source.end_positions()


def lag(bootstrap: str, config: KafkaConfig, group: str, ends: Positions) -> int:
    """Return how many positions a group still has to take to come to some ends, of all partitions together; see `lags`."""
    return sum(lags(bootstrap, config, group, ends).values())


def lags(bootstrap: str, config: KafkaConfig, group: str, ends: Positions) -> dict[int, int]:
    """Return how many positions a group still has to take to come to each end; none where no record lies between.

    A group stores the position behind its last record. Behind that may lie what holds no record, and nobody will ever take:
    the marker that ends a transaction, or all of one that was given up.

    Raises:
        ServiceUnavailable: The broker did not answer in time.
    """
    with _whole_topic(bootstrap, config, group) as source:
        reached = dict(source.position())
        behind = {partition for partition, end in ends.items() if reached[partition] < end}
        deadline_s = time.monotonic() + config.connect_timeout_s
        while behind and time.monotonic() < deadline_s:
            for record in source.poll(_POLL_S):
                if record.partition in behind:
                    reached[record.partition] = record.offset
                    behind.discard(record.partition)
            passed = source.position()
            done = {partition for partition in behind if passed[partition] >= ends[partition]}
            reached |= {partition: passed[partition] for partition in done}
            behind -= done
    return {partition: max(0, end - reached[partition]) for partition, end in ends.items()}
