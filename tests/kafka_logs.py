"""Whole topics of a real broker: written by any producer, and read from beginning to end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from kafka import KafkaProducer

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka import KafkaSource
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import Record
from tests.state_worlds import KeyValue


def send(address: str, topic: str, sent: Sequence[KeyValue], num_partitions: int) -> None:
    """Write records, each where its key belongs."""
    with closing(KafkaProducer(bootstrap_servers=address, acks="all")) as producer:
        for key, value in sent:
            producer.send(topic, value, key, partition=home_partition(key_hash(key or b""), num_partitions))
        producer.flush(timeout=30)


def read_all(address: str, config: KafkaConfig, num_partitions: int) -> list[Record]:
    """Return all records of `config.topic` that a reader of committed ones gets."""
    with closing(KafkaSource(address, config, "", partitions=range(num_partitions))) as source:
        ends = source.written_positions()
        source.seek(source.oldest_positions())
        records: list[Record] = []
        while any(source.position()[p] < end for p, end in ends.items()):
            records += source.poll(0.2)
    return records
