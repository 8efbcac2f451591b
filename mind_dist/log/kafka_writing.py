"""Events and dead letters → Kafka topics."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from mind_dist.config import KafkaConfig
from mind_dist.errors import ServiceUnavailable
from mind_dist.keys import DEFAULT_TYPE, Value
from mind_dist.log.codec import encode_event, encode_history, encode_key
from mind_dist.log.dead_letters import dead_letter
from mind_dist.log.kafka_broker import connect, translated
from mind_dist.log.kafka_settings import client_settings
from mind_dist.records import Record

_LINGER_MS = 5
_CLOSE_TIMEOUT_S = 5.0


class EventProducer:
    """Writes events to the topic, a user's all into one partition and in order; safe to share between threads.

    A record is stored once, on all replicas, or `flush` raises.
    """

    def __init__(self, bootstrap: str, config: KafkaConfig) -> None:
        """Reach the broker.

        Raises:
            ServiceUnavailable: It did not answer within `config.connect_timeout_s`.
        """
        self._outbox = _Outbox(bootstrap, config.topic, config)

    def send(
        self,
        user_id: int | str,
        item_id: int | str,
        timestamp_ms: int,
        event_type: str = DEFAULT_TYPE,
        context: Mapping[str, Value] | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand over an event, with headers of its record; it is stored when `flush` returns."""
        value = encode_event(user_id, item_id, timestamp_ms, event_type, context)
        self._outbox.send(encode_key(user_id), value, headers)

    def tell(
        self, user_id: int | str, behaviors: Sequence[Sequence[Any]], profile: Mapping[str, Any] | None = None
    ) -> None:
        """Hand over what is known of a user already (`mind_dist.log.codec.encode_history`)."""
        self._outbox.send(encode_key(user_id), encode_history(user_id, behaviors, profile))

    def forget(self, user_id: int | str) -> None:
        """Hand over a tombstone."""
        self._outbox.send(encode_key(user_id), None)

    def flush(self) -> None:
        """Return when everything this thread handed over is stored.

        Raises:
            ServiceUnavailable: Something was not, within the connect timeout; of what was handed over since the last
                flush, any part may be stored.
        """
        self._outbox.flush()

    def close(self) -> None:
        """Flush and leave."""
        self._outbox.close()


class KafkaDeadLetters:
    """`DeadLetters` in a topic: the record's own key and value, and headers that say what, why and from where."""

    def __init__(self, bootstrap: str, config: KafkaConfig) -> None:
        """Reach the broker.

        Raises:
            ServiceUnavailable: It did not answer within `config.connect_timeout_s`.
        """
        self._config = config
        self._outbox = _Outbox(bootstrap, config.dead_letter_topic, config)

    def send(self, record: Record, error: str) -> None:
        """Hand over a poison record; one too large to travel with headers is cut, and says so."""
        letter = dead_letter(self._config, record, error)
        self._outbox.send(letter.key, letter.value, letter.headers)

    def flush(self) -> None:
        """Return when everything handed over is stored; raises `ServiceUnavailable` when something was not."""
        self._outbox.flush()

    def close(self) -> None:
        """Flush and leave."""
        self._outbox.close()


class _Outbox:
    """A topic's producer, idempotent and acknowledged by all replicas.

    A producer that failed to deliver has a gap in its sequence numbers and may be stuck for good, so the next send
    takes a new one. Each thread's `flush` answers for what that thread handed over.
    """

    def __init__(self, bootstrap: str, topic: str, config: KafkaConfig) -> None:
        self._address = bootstrap
        self._topic = topic
        self._timeout_s = config.connect_timeout_s
        self._metadata_max_age_s = config.metadata_max_age_s
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._producer: Any = self._connect()

    def _connect(self) -> Any:
        timeout_ms = int(self._timeout_s * 1000)
        linger_ms = client_settings().arguments(KafkaProducer).get("linger_ms", _LINGER_MS)
        return connect(
            KafkaProducer,
            self._address,
            self._timeout_s,
            acks="all",
            enable_idempotence=True,
            linger_ms=linger_ms,
            max_block_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            delivery_timeout_ms=timeout_ms + linger_ms,
            metadata_max_age_ms=int(self._metadata_max_age_s * 1000),
        )

    def send(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        with self._lock:
            if self._producer is None:
                self._producer = self._connect()
            producer = self._producer
        with translated(self._address):
            sent = producer.send(self._topic, key=key, value=value, headers=list(headers))
        self._handed_over().append(sent)

    def _handed_over(self) -> list[Any]:
        sent: list[Any] = self._mine.__dict__.setdefault("sent", [])
        return sent

    def flush(self) -> None:
        handed_over = self._handed_over().copy()
        self._handed_over().clear()
        producer = self._producer
        try:
            with translated(self._address):
                if producer is not None:
                    producer.flush(timeout=self._timeout_s + 1)
                for each in handed_over:
                    each.get(timeout=0)
        except ServiceUnavailable:
            self._drop(producer)
            raise

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._drop(self._producer)

    def _drop(self, producer: Any) -> None:
        with self._lock:
            if producer is None or producer is not self._producer:
                return
            self._producer = None
        sender = producer._sender  # noqa: SLF001 - the client's own close waits for what it cannot deliver
        sender.force_close()
        sender.join(_CLOSE_TIMEOUT_S)
        with suppress(KafkaError):
            producer.close(timeout=0)
