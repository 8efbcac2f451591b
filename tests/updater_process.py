"""A plain updater process, to be killed: `python -m tests.updater_process KAFKA MILVUS TOPIC URI`."""

import sys
import time

from mind_dist.config import KafkaConfig, MilvusConfig, ServingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.log.kafka import KafkaDeadLetters, KafkaSource
from mind_dist.observability import InMemoryMetrics
from mind_dist.serving.update_loop import OnStep, UpdateLoop
from mind_dist.serving.updater import UserVectorUpdater

PARTITIONS = 2


def serving_config(topic: str) -> ServingConfig:
    """Return settings with small batches."""
    kafka = KafkaConfig(topic, f"{topic}-dead", max_poison_fraction=1.0, max_poll_records=10)
    return ServingConfig(kafka=kafka, milvus=MilvusConfig(index="FLAT"))


def updater(kafka: str, milvus: str, topic: str, uri: str, on_step: OnStep) -> UserVectorUpdater:
    """Return an updater on real services; it owns all partitions at once, without waiting for a killed member's session."""
    config = serving_config(topic)
    encoder = InterestEncoder.load(uri)
    return UserVectorUpdater(
        encoder,
        MilvusVectorStore(milvus, config.milvus),
        KafkaSource(kafka, config.kafka, config.kafka.group(encoder.model_version), partitions=range(PARTITIONS)),
        KafkaDeadLetters(kafka, config.kafka),
        config=config,
        metrics=InMemoryMetrics(),
        on_step=on_step,
    )


if __name__ == "__main__":
    kafka, milvus, topic, uri = sys.argv[1:]
    loop = UpdateLoop("killed", lambda on_step: updater(kafka, milvus, topic, uri, on_step), serving_config(topic))
    loop.start()
    while True:
        loop.check()
        time.sleep(0.1)
