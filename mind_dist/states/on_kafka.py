"""The states' updater with Kafka behind its ports."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from mind_dist.config import KafkaConfig, StatesConfig
from mind_dist.keys import IdType
from mind_dist.log.kafka import KafkaSource
from mind_dist.log.kafka_topics import ensure_dead_letter_topic, ensure_state_topic, log_identity, num_partitions
from mind_dist.log.kafka_transactions import KafkaTransactions
from mind_dist.log.kafka_unfinished import new_id
from mind_dist.states.homes import Homes
from mind_dist.states.local_store import LocalStore
from mind_dist.states.ownership import Ownership
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater, UpdateStep


def states_folder(config: StatesConfig, kafka: KafkaConfig) -> Path:
    """Return where a machine keeps states: of each deployment by itself."""
    root = Path(config.directory) if config.directory else Path(tempfile.gettempdir()) / "mind_dist" / "states"
    return root / kafka.states_topic


def states_on_kafka(
    bootstrap: str,
    kafka: KafkaConfig,
    config: StatesConfig,
    id_type: IdType,
    *,
    shared: SharedStores,
    on_step: Callable[[UpdateStep], None] = lambda _step: None,
    may_take: Callable[[], bool] = lambda: True,
) -> StatesUpdater:
    """Join the group that keeps the users' states.

    Raises:
        ConfigError: There is no topic of events, or a topic that is needed cannot be made.
        ServiceUnavailable: The broker did not answer in time.
    """
    ensure_dead_letter_topic(bootstrap, kafka)
    ensure_state_topic(bootstrap, kafka)
    identity = log_identity(bootstrap, kafka.states_topic, timeout_s=kafka.connect_timeout_s)
    folder = states_folder(config, kafka)
    of_states = dataclasses.replace(kafka, topic=kafka.states_topic)
    transactions = KafkaTransactions(bootstrap, kafka, new_id(kafka.updaters_group))
    count = num_partitions(bootstrap, kafka.states_topic, timeout_s=kafka.connect_timeout_s)
    homes = Homes(count, lambda: num_partitions(bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s))
    owned = Ownership(
        lambda: KafkaSource(bootstrap, kafka, kafka.updaters_group, hold_new=True),
        transactions,
        lambda partition: KafkaSource(bootstrap, of_states, "", partitions=[partition]),
        lambda partition: LocalStore.in_free_slot(folder, partition, identity),
        events_log=str(log_identity(bootstrap, kafka.topic, timeout_s=kafka.connect_timeout_s)),
        num_partitions=count,
        kafka=kafka,
        shared=shared,
    )
    return StatesUpdater(
        owned,
        transactions,
        homes,
        id_type,
        config=config,
        kafka=kafka,
        on_step=on_step,
        may_take=may_take,
        shared=shared,
    )
