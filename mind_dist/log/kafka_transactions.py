"""Kafka transactions: records and the positions of their input, all or nothing (KIP-98, KIP-447).

The broker refuses a member whose partitions have moved on, however long it was frozen. Tansu does not: it refuses a
second producer of one id alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from mind_dist.config import KafkaConfig
from mind_dist.errors import AnotherLog, ServiceUnavailable, StaleAssignment
from mind_dist.log.kafka_broker import connect, translated
from mind_dist.log.kafka_unfinished import end_unfinished
from mind_dist.log.transactions import Membership, NewRecord
from mind_dist.records import Positions

_MOVED = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
_CLOSE_TIMEOUT_S = 5.0
_RETRY_BACKOFF_MS = 5  # with the client's 100, a transaction waits that long for the end of the one before


class KafkaTransactions:
    """`Transactions` of one producer; use it from one thread.

    Args:
        bootstrap: Addresses of brokers.
        config: The events' topic, and bounds.
        transactional_id: The producer's id, of `kafka_unfinished.new_id` where others are to end what it leaves under way; a
            second producer of the same id does.

    Raises:
        ServiceUnavailable: The broker did not answer within `config.connect_timeout_s`.
    """

    def __init__(self, bootstrap: str, config: KafkaConfig, transactional_id: str) -> None:
        self._address = bootstrap
        self._config = config
        self._transactional_id = transactional_id
        self._producer: Any = None
        self._states_id: Any = None
        self._connected()

    def commit(
        self, records: Sequence[NewRecord], positions: Positions, membership: Membership, notes: Mapping[int, str]
    ) -> Sequence[int]:
        """Write all in one transaction; after any failure the next one begins with a new connection."""
        if membership.generation < 0:  # the broker would check nothing of a member without a generation
            raise StaleAssignment(f"partitions {sorted(positions)} are not ours: the group has thrown this member out")
        try:
            with translated(self._address, passing=_MOVED):
                return self._commit(self._connected(), records, positions, membership, notes)
        except _MOVED as error:
            self._drop()
            raise StaleAssignment(f"partitions {sorted(positions)} have moved on: {error}") from error
        except BaseException:
            self._drop()
            raise

    def put(
        self,
        group: str,
        positions: Positions,
        records: Sequence[NewRecord] = (),
        notes: Mapping[int, str] | None = None,
    ) -> None:
        """Store positions for a group from outside, with members in it or without, and what is noted beside them.

        A member that is at work takes no notice, and stores its own with the next batch: this is for partitions of
        which nothing is taken.

        Raises:
            ServiceUnavailable: The broker did not answer in time.
        """
        try:
            with translated(self._address):
                self._commit(self._connected(), records, positions, Membership(group, 0, group), notes or {})
        except BaseException:
            self._drop()
            raise

    def _commit(
        self,
        producer: Any,
        records: Sequence[NewRecord],
        positions: Positions,
        membership: Membership,
        notes: Mapping[int, str],
    ) -> Sequence[int]:
        timeout_s = self._config.connect_timeout_s
        producer.begin_transaction()
        sent = [producer.send(each.topic, each.value, each.key, list(each.headers), each.partition) for each in records]
        # all of it stands in the log before the positions do: a member that is frozen in between writes nothing late
        producer.flush(timeout=timeout_s)
        offsets = [int(each.get(timeout=0).offset) for each in sent]
        self._check_states(producer)
        stored = {
            TopicPartition(self._config.topic, partition): OffsetAndMetadata(position, notes.get(partition, ""), -1)
            for partition, position in positions.items()
        }
        manager = producer._transaction_manager  # noqa: SLF001 - the client's own calls wait without a bound
        self._wait(producer, manager.send_offsets_to_transaction(stored, membership.token), "storing positions")
        self._wait(producer, manager.begin_commit(), "a commit")
        if min(offsets, default=0) < 0:  # what was sent twice and stored once comes back without its place
            raise KafkaTimeoutError("the broker does not tell where the records stand: they are read again")
        return offsets

    def _check_states(self, producer: Any) -> None:
        """Notice a topic of states that was made anew: the client writes by name, and states before would be missed there."""
        topic = self._config.states_topic
        found = producer._metadata.topic_id(topic)  # noqa: SLF001 - the client tells it nowhere else
        if self._states_id is None:
            self._states_id = found
        elif found is not None and found != self._states_id:
            saved, there = (f"topic {topic} (id {each})" for each in (self._states_id, found))
            raise AnotherLog("an updater", saved, there, "it must begin anew")

    def _wait(self, producer: Any, result: Any, what: str) -> None:
        producer._sender.wakeup()  # noqa: SLF001 - as above
        if not result.wait(timeout_ms=int(self._config.connect_timeout_s * 1000)):
            raise KafkaTimeoutError(f"{what} took longer than {self._config.connect_timeout_s:g} s")

    def _connected(self) -> Any:
        if self._producer is None:
            timeout_ms = int(self._config.connect_timeout_s * 1000)
            producer = connect(
                KafkaProducer,
                self._address,
                self._config.connect_timeout_s,
                transactional_id=self._transactional_id,
                transaction_timeout_ms=int(self._config.transaction_timeout_s * 1000),
                acks="all",
                linger_ms=0,
                max_block_ms=timeout_ms,
                request_timeout_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms + 5,
                retry_backoff_ms=_RETRY_BACKOFF_MS,
                metadata_max_age_ms=int(self._config.metadata_max_age_s * 1000),
                compression_type=None,
            )
            self._producer = producer
            try:
                with translated(self._address):
                    producer.init_transactions()
            except ServiceUnavailable:
                self._drop()
                raise
        return self._producer

    def end_unfinished(self, partitions: Collection[int]) -> None:
        """End what others have left under way, and what a failure of our own has: see `mind_dist.log.kafka_unfinished`."""
        self._connected()
        end_unfinished(self._address, self._config, self._transactional_id, partitions)

    def close(self) -> None:
        """Leave; the broker aborts what is under way."""
        self._drop()

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        sender = producer._sender  # noqa: SLF001 - the client's own close waits for what it cannot deliver
        sender.force_close()
        sender.join(_CLOSE_TIMEOUT_S)
        with suppress(KafkaError):
            producer.close(timeout=0)
