"""The event log in Kafka: a source, dead letters, a producer, topics. Client exceptions end here.

Written for kafka-python 3 against Apache Kafka and Tansu, whose differences it hides: Tansu cannot do cooperative or
sticky assignment, and tells the end of a partition rightly only when one fetches there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    CommitFailedError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    TopicAlreadyExistsError,
)
from kafka.net.compat import KafkaNetClient

from mind_dist.config import KafkaConfig
from mind_dist.data.codec import encode_event, encode_key
from mind_dist.errors import ConfigError, PositionLost, ServiceUnavailable, StaleAssignment
from mind_dist.records import Positions, Record

T = TypeVar("T")

_RECONNECT_BACKOFF_MAX_MS = 1000  # the client's own 30 s would lag a recovered broker by half a minute
_SILENCE_S = 5.0
"""After so long without a record, ask whether the broker is still there."""
_PROBE_TIMEOUT_MS = 1000
_CLOSE_TIMEOUT_S = 5.0
_LARGEST_DEAD_LETTER_BYTES = 1_000_000  # a record at the broker's limit would not fit with our headers


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


class KafkaSource:
    """An `EventSource` over a topic, going on from its group's stored positions, or from the oldest record.

    Use it from one thread. The group's assignment changes inside `poll` only; records and positions of the partitions
    that went are then no longer ours.
    """

    def __init__(
        self, bootstrap: str, config: KafkaConfig, group: str, *, partitions: Iterable[int] | None = None
    ) -> None:
        """Reach the broker and join the group, or take `partitions` by hand, without the group's balancing.

        Raises:
            ConfigError: There is no such topic, or it lacks one of the partitions.
            ServiceUnavailable: The broker did not answer within `config.connect_timeout_s`.
        """
        count = num_partitions(bootstrap, config.topic, timeout_s=config.connect_timeout_s)
        self._address = bootstrap
        self._topic = config.topic
        self._timeout_ms = int(config.connect_timeout_s * 1000)
        self._paused: set[TopicPartition] = set()
        self._heard_s = time.monotonic()
        self._silent_since_s: float | None = None
        self._ends: Any = None
        wanted = [TopicPartition(config.topic, partition) for partition in partitions or ()]
        if any(partition >= count for _, partition in wanted):
            raise ConfigError("partitions", f"{config.topic!r} has {count}, numbered from 0")
        self._consumer = _connect(KafkaConsumer, bootstrap, config.connect_timeout_s, **_settings(config, group))
        if partitions is None:
            self._consumer.subscribe([config.topic])
        else:
            self._consumer.assign(wanted)

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, at most `max_poll_records`, each partition's in order.

        Raises:
            PositionLost: A position is older than the oldest record kept, or behind the end.
            ServiceUnavailable: The broker was silent for the connect timeout; polling again goes on without loss.
        """
        with _translated(self._address):
            batches = self._with_positions(lambda: self._consumer.poll(timeout_ms=int(timeout_s * 1000)))
        self._consumer.pause(*self._paused & self._consumer.assignment())  # a rebalance forgets pauses
        if batches:
            self._heard()
        else:
            self._notice_silence()
        return [
            Record(each.partition, each.offset, each.key, each.value, each.timestamp)
            for batch in batches.values()
            for each in batch
        ]

    def assignment(self) -> frozenset[int]:
        """Return the partitions owned now."""
        return frozenset(partition for _, partition in self._consumer.assignment())

    def position(self) -> Positions:
        """Return the next position of every owned partition."""
        with _translated(self._address):
            return {each.partition: self._position_of(each) for each in sorted(self._consumer.assignment())}

    def oldest_positions(self) -> Positions:
        """Return the position of the oldest record kept of every owned partition."""
        with _translated(self._address):
            oldest = self._consumer.beginning_offsets(list(self._consumer.assignment()), timeout_ms=self._timeout_ms)
        return {each.partition: offset for each, offset in oldest.items()}

    def end_positions(self) -> Positions:
        """Return the end of every owned partition, exactly.

        Asked for the end, Tansu answers with the newest batch's *first* record. A fetch at that place tells the true
        end on every broker, so one is done, by a consumer of its own.
        """
        owned = list(self._consumer.assignment())
        if not owned:
            return {}
        if self._ends is None:
            settings = {"enable_auto_commit": False, "auto_offset_reset": "none", "fetch_max_wait_ms": 1}
            self._ends = _connect(KafkaConsumer, self._address, self._timeout_ms / 1000, **settings)
        with _translated(self._address):
            return {each.partition: end for each, end in _exact_ends(self._ends, owned, self._timeout_ms).items()}

    def seek(self, positions: Positions) -> None:
        """Go on from these positions; partitions not owned are left out."""
        for each in self._owned(positions):
            self._consumer.seek(each, positions[each.partition])

    def commit(self, positions: Positions) -> None:
        """Store these positions for the group, and no others.

        Raises:
            StaleAssignment: The group has given our partitions to others; they read again what is not stored.
        """
        offsets = {TopicPartition(self._topic, p): OffsetAndMetadata(at, "", -1) for p, at in positions.items()}
        try:
            with _translated(self._address, passing=(CommitFailedError, RebalanceInProgressError)):
                self._consumer.commit(offsets, timeout_ms=self._timeout_ms)
        except (CommitFailedError, RebalanceInProgressError) as error:
            raise StaleAssignment(f"partitions {sorted(positions)} of {self._topic} have moved on: {error}") from error

    def committed(self) -> Positions:
        """Return the group's stored positions of the owned partitions."""
        with _translated(self._address):
            stored = {
                each.partition: self._consumer.committed(each, timeout_ms=self._timeout_ms)
                for each in sorted(self._consumer.assignment())
            }
        return {partition: position for partition, position in stored.items() if position is not None}

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing more from these partitions, while they are ours, until resumed."""
        self._paused |= {TopicPartition(self._topic, partition) for partition in partitions}
        self._consumer.pause(*self._paused & self._consumer.assignment())

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll from these partitions again."""
        self._paused -= {TopicPartition(self._topic, partition) for partition in partitions}
        self._consumer.resume(*self._owned(partitions))

    def close(self) -> None:
        """Leave the group, without committing."""
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_TIMEOUT_S * 1000)
        if self._ends is not None:
            self._ends.close(autocommit=False)

    def _owned(self, partitions: Iterable[int]) -> set[TopicPartition]:
        owned: set[TopicPartition] = self._consumer.assignment()
        return owned & {TopicPartition(self._topic, partition) for partition in partitions}

    def _position_of(self, partition: TopicPartition) -> int:
        found = self._with_positions(lambda: self._consumer.position(partition, timeout_ms=self._timeout_ms))
        if found is None:
            raise KafkaTimeoutError(f"no position of {partition}")
        return int(found)

    def _with_positions(self, call: Callable[[], T]) -> T:
        """Call the client; a partition of which the group has nothing stored starts at its oldest record.

        The client's own reset ("earliest") is off: it would also move a lost position to the oldest record silently.
        """
        while True:
            try:
                return call()
            except NoOffsetForPartitionError as error:
                self._consumer.seek_to_beginning(*error.args[0])
            except OffsetOutOfRangeError as error:
                self._raise_lost(*next(iter(error.args[0].items())))
            except LogTruncationError as error:
                lost = next(iter(error.divergent_offsets))
                self._raise_lost(lost, self._consumer.position(lost))

    def _raise_lost(self, partition: TopicPartition, wanted: int) -> NoReturn:
        oldest = self._consumer.beginning_offsets([partition], timeout_ms=self._timeout_ms)
        raise PositionLost(partition.partition, wanted, oldest[partition])

    def _heard(self) -> None:
        self._heard_s = time.monotonic()
        self._silent_since_s = None

    def _notice_silence(self) -> None:
        """Ask the broker something when it has been quiet: a client's poll returns nothing when it is gone, too."""
        now_s = time.monotonic()
        if now_s - self._heard_s < _SILENCE_S:
            return
        try:
            self._consumer.end_offsets([TopicPartition(self._topic, 0)], timeout_ms=_PROBE_TIMEOUT_MS)
            self._heard()
        except KafkaError as error:
            self._silent_since_s = self._silent_since_s or now_s
            silent_s = time.monotonic() - self._silent_since_s
            if silent_s * 1000 > self._timeout_ms:
                raise ServiceUnavailable("Kafka", self._address, silent_s, str(error)) from error


def _settings(config: KafkaConfig, group: str) -> dict[str, Any]:
    return {
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # see KafkaSource._with_positions
        "allow_auto_create_topics": False,
        "max_poll_records": config.max_poll_records,
        "partition_assignment_strategy": [RangePartitionAssignor()],  # eager; see the module's first lines
        "session_timeout_ms": int(config.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(config.session_timeout_s * 125),
        "max_poll_interval_ms": int(config.max_poll_interval_s * 1000),
    }


def _exact_ends(consumer: Any, partitions: list[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
    """Return the high watermark that a fetch at each partition's (alleged) end brings."""
    deadline_s = time.monotonic() + timeout_ms / 1000
    alleged = consumer.end_offsets(partitions, timeout_ms=timeout_ms)
    consumer.unsubscribe()  # forgets the watermarks seen last time
    consumer.assign(partitions)
    for partition, end in alleged.items():
        consumer.seek(partition, end)
    ends: dict[TopicPartition, int | None] = dict.fromkeys(partitions)
    while None in ends.values():
        if time.monotonic() > deadline_s:
            raise KafkaTimeoutError(f"no end of {partitions}")
        consumer.poll(timeout_ms=5)
        ends = {partition: consumer.highwater(partition) for partition in partitions}
    return {partition: end for partition, end in ends.items() if end is not None}


class EventProducer:
    """Writes events to the topic, a user's all into one partition and in order; safe to share between threads.

    Each record is stored once, on all replicas, or `flush` raises.
    """

    def __init__(self, bootstrap: str, config: KafkaConfig) -> None:
        """Reach the broker.

        Raises:
            ServiceUnavailable: It did not answer within `config.connect_timeout_s`.
        """
        self._outbox = _Outbox(bootstrap, config.topic, config.connect_timeout_s)

    def send(self, user_id: int | str, item_id: int | str, timestamp_ms: int, event_type: str = "click") -> None:
        """Hand over an event; it is stored when `flush` returns."""
        self._outbox.send(encode_key(user_id), encode_event(user_id, item_id, timestamp_ms, event_type))

    def forget(self, user_id: int | str) -> None:
        """Hand over a tombstone."""
        self._outbox.send(encode_key(user_id), None)

    def flush(self) -> None:
        """Return when everything handed over is stored.

        Raises:
            ServiceUnavailable: Something was not, within the connect timeout.
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
        self._source_topic = config.topic
        self._outbox = _Outbox(bootstrap, config.dead_letter_topic, config.connect_timeout_s)

    def send(self, record: Record, error: str) -> None:
        """Hand over a poison record; one too large to travel with headers is cut, and says so."""
        origin = {"topic": self._source_topic, "partition": record.partition, "offset": record.offset}
        headers = {"error": error, **origin}
        value = record.value
        if value is not None and len(value) > _LARGEST_DEAD_LETTER_BYTES:
            headers["cut_from_bytes"] = len(value)
            value = value[:_LARGEST_DEAD_LETTER_BYTES]
        if record.key is None and value is None:
            value = b""  # the client refuses a record that is null throughout
        self._outbox.send(record.key, value, [(name, str(text).encode()) for name, text in headers.items()])

    def flush(self) -> None:
        """Return when everything handed over is stored; raises `ServiceUnavailable` when something was not."""
        self._outbox.flush()

    def close(self) -> None:
        """Flush and leave."""
        self._outbox.close()


class _Outbox:
    """A client's producer into one topic, idempotent and acknowledged by all replicas."""

    def __init__(self, bootstrap: str, topic: str, timeout_s: float) -> None:
        timeout_ms = int(timeout_s * 1000)
        self._address = bootstrap
        self._topic = topic
        self._timeout_s = timeout_s
        self._failure: BaseException | None = None
        self._producer = _connect(
            KafkaProducer,
            bootstrap,
            timeout_s,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_block_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            delivery_timeout_ms=timeout_ms + 5,
            allow_auto_create_topics=False,
        )

    def send(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        with _translated(self._address):
            sent = self._producer.send(self._topic, key=key, value=value, headers=list(headers))
        sent.add_errback(self._fail)

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure

    def flush(self) -> None:
        with _translated(self._address):
            self._producer.flush(timeout=self._timeout_s + 1)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise ServiceUnavailable("Kafka", self._address, self._timeout_s, str(failure)) from failure

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._producer.close(timeout=_CLOSE_TIMEOUT_S)


@contextmanager
def _admin(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    admin = _connect(KafkaAdminClient, bootstrap, timeout_s, request_timeout_ms=int(timeout_s * 1000))
    try:
        with _translated(bootstrap):
            yield admin
    finally:
        admin.close()


def _connect(client: type, bootstrap: str, timeout_s: float, **settings: Any) -> Any:
    """Return a client that has reached a broker; a failed attempt leaves no thread behind."""
    started: list[Any] = []

    def network(**configs: Any) -> Any:
        started.append(KafkaNetClient(**configs))
        return started[-1]

    try:
        with _translated(bootstrap):
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
def _translated(address: str, passing: tuple[type[KafkaError], ...] = ()) -> Iterator[None]:
    """Turn the client's errors, but for those passing, into `ServiceUnavailable`."""
    start_s = time.monotonic()
    try:
        yield
    except passing:
        raise
    except KafkaError as error:
        raise ServiceUnavailable("Kafka", address, time.monotonic() - start_s, str(error)) from error
