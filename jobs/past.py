"""A prepared dataset or a raw log whose past is put into Kafka: what `jobs.replay` and `jobs.load_users` are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mind_dist.config import Addresses, KafkaConfig, LogConfig
from mind_dist.dataset.replay import Part
from mind_dist.errors import ConfigError
from mind_dist.keys import IdType
from mind_dist.log.kafka import EVENT_PARTITIONS, ensure_event_topics


@dataclass(frozen=True)
class Past:
    """Where the past is, and into which topic it goes."""

    dataset: str = ""
    """URI of a prepared dataset, or"""
    log: LogConfig = field(default_factory=LogConfig)
    """a raw log."""
    id_type: IdType = "int64"
    """What the ids of a raw log are; a dataset knows its own."""
    part: Part = "all"
    """Of a dataset: all, the tail that evaluation holds out of the valid and test users' histories, or the inputs, all but that."""
    partitions: int = EVENT_PARTITIONS
    """Partitions of the events' topic, if it is not there yet; the default is that of cluster/topics.yaml."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Topics."""

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: They do.
        """
        if bool(self.dataset) == bool(self.log.paths):
            raise ConfigError("dataset", "give one of --dataset, --log.paths")
        if self.log.paths and self.part != "all":
            raise ConfigError("part", "a raw log has no tail held out")
        if self.partitions < 1:
            raise ConfigError("partitions", "must be at least 1")

    def ready_topics(self) -> tuple[str, KafkaConfig]:
        """Return the broker and the deployment's topics there, made where they were not.

        Raises:
            ServiceUnavailable: The broker did not answer in time.
        """
        addresses = Addresses.from_environment()
        topics = self.kafka.of_deployment(addresses.deployment)
        ensure_event_topics(addresses.kafka, topics, self.partitions)
        return addresses.kafka, topics
