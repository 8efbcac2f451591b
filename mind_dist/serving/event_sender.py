"""Events of requests → the log, by a connection that is made, and made again, in the background."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mind_dist.errors import MindDistError, ServiceUnavailable
from mind_dist.keys import Value

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event on its way to the log.

    Attributes:
        user_id: The user's outside id.
        item_id: The item's.
        timestamp_ms: When it happened, in milliseconds since the epoch.
        event_type: What the user did.
        context: What is known of the moment, by name.
    """

    user_id: int | str
    item_id: int | str
    timestamp_ms: int
    event_type: str
    context: dict[str, Value] = field(default_factory=dict)


class Producer(Protocol):
    """What writes events; `mind_dist.log.kafka.EventProducer`."""

    def send(
        self,
        user_id: int | str,
        item_id: int | str,
        timestamp_ms: int,
        event_type: str = ...,
        context: dict[str, Value] | None = ...,
        *,
        headers: Sequence[tuple[str, bytes]] = ...,
    ) -> None:
        """Hand over an event."""
        ...

    def flush(self) -> None:
        """Return when this thread's events are stored; raises `ServiceUnavailable`."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


@dataclass
class _Connection:
    """A producer, and who uses it: the last one to leave a lost one closes it."""

    producer: Producer
    num_users: int = 0
    is_lost: bool = False


class EventSender:
    """Stores events; safe to share between threads. No request ever waits for a connection.

    Args:
        connect: Reaches the log, within a bound, or raises `ServiceUnavailable`.
        address: Where the log is, for messages.
        pause_s: Between attempts to connect, half more or less.
    """

    def __init__(self, connect: Callable[[], Producer], address: str, pause_s: float = _PAUSE_S) -> None:
        self._connect = connect
        self._address = address
        self._pause_s = pause_s
        self._lock = threading.Condition()
        self._connection: _Connection | None = None
        self._away_since_s = time.monotonic()
        self._reason = "not reached yet"
        self._is_closing = False
        self._thread = threading.Thread(target=self._keep_connected, name="event-sender", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def send(self, events: Sequence[SentEvent], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Return when the log has stored the events.

        Raises:
            ServiceUnavailable: There is no connection, or they were not stored in time; then any part of them may be.
        """
        with self._connected() as producer:
            for event in events:
                fields = (event.user_id, event.item_id, event.timestamp_ms, event.event_type, event.context)
                producer.send(*fields, headers=headers)
            producer.flush()

    @contextmanager
    def _connected(self) -> Iterator[Producer]:
        with self._lock:
            connection = self._connection
            if connection is None:
                waited_s = time.monotonic() - self._away_since_s
                raise ServiceUnavailable("Kafka", self._address, waited_s, self._reason)
            connection.num_users += 1
        try:
            yield connection.producer
        except ServiceUnavailable as error:
            self._lose(connection, str(error))
            raise
        finally:
            with self._lock:
                connection.num_users -= 1
                is_last = connection.is_lost and not connection.num_users
            if is_last:
                _close(connection.producer)

    def _lose(self, connection: _Connection, reason: str) -> None:
        with self._lock:
            connection.is_lost = True
            if self._connection is connection:
                self._connection, self._reason, self._away_since_s = None, reason, time.monotonic()
                self._lock.notify_all()

    def _keep_connected(self) -> None:
        while self._wait_until_needed():
            try:
                producer = self._connect()
            except MindDistError as error:  # a setting may be wrong, too: secrets in files come and change
                with self._lock:
                    self._reason = str(error)
                    # no two replicas come back at one time to a broker that is just getting up
                    self._lock.wait_for(lambda: self._is_closing, self._pause_s * random.uniform(0.5, 1.5))
                continue
            with self._lock:
                is_wanted = not self._is_closing
                if is_wanted:
                    self._connection = _Connection(producer)
            if not is_wanted:
                _close(producer)

    def _wait_until_needed(self) -> bool:
        """Return whether to connect, once there is no connection; False at the end."""
        with self._lock:
            self._lock.wait_for(lambda: self._is_closing or self._connection is None)
            return not self._is_closing

    def close(self, timeout_s: float) -> None:
        """Leave the log."""
        with self._lock:
            self._is_closing = True
            connection, self._connection = self._connection, None
            self._lock.notify_all()
        self._thread.join(timeout_s)
        if connection is not None:
            _close(connection.producer)


def _close(producer: Producer) -> None:
    try:
        producer.close()
    except ServiceUnavailable as error:
        logger.warning("left the log without an answer", extra={"fields": {"reason": str(error)}})
