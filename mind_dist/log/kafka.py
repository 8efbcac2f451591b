"""The event log in Kafka: `KafkaSource` here; producer and topics by the same name, from the modules beside.

It hides how Apache Kafka and Tansu differ: Tansu cannot share out partitions cooperatively (`kafka_members`), and does
not tell the end of a partition rightly (`kafka_probe`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)

from mind_dist.config import KafkaConfig
from mind_dist.errors import (
    AnotherLog,
    ConfigError,
    MindDistError,
    PositionLost,
    ServiceUnavailable,
    StaleAssignment,
    UnreadableBatch,
)
from mind_dist.log.kafka_broker import connect, translated, wait_for_broker
from mind_dist.log.kafka_members import GroupName, consumer_settings
from mind_dist.log.kafka_probe import UNREADABLE, PartitionProbe
from mind_dist.log.kafka_topics import (
    EVENT_PARTITIONS,
    ensure_dead_letter_topic,
    ensure_event_topics,
    ensure_topics,
    log_identity,
    num_partitions,
)
from mind_dist.log.kafka_writing import EventProducer, KafkaDeadLetters
from mind_dist.log.transactions import Membership
from mind_dist.records import Positions, Record

__all__ = [
    "EVENT_PARTITIONS",
    "EventProducer",
    "KafkaDeadLetters",
    "KafkaSource",
    "ensure_dead_letter_topic",
    "ensure_event_topics",
    "ensure_topics",
    "log_identity",
    "num_partitions",
    "wait_for_broker",
]

T = TypeVar("T")

_MOVED_ON = (CommitFailedError, FencedInstanceIdError, RebalanceInProgressError)
"""What the client says where our partitions, or our name in the group, are another's."""
_SILENCE_S = 5.0
"""After so long without a record, ask whether the broker is still there."""
_PROBE_TIMEOUT_MS = 1000
_CLOSE_TIMEOUT_MS = 5000


class KafkaSource:
    """An `EventSource` over a topic, going on from its group's stored positions, or from the oldest record.

    Use it from one thread. The group's assignment changes inside `poll` only; records and positions of the partitions
    that went are then no longer ours. Those that stayed go on where they were.
    """

    def __init__(
        self,
        bootstrap: str,
        config: KafkaConfig,
        group: str,
        *,
        partitions: Iterable[int] | None = None,
        hold_new: bool = False,
    ) -> None:
        """Reach the broker and join the group, or take `partitions` by hand, without the group's balancing.

        With `hold_new`, partitions that the group gives us are paused until they are resumed.

        Raises:
            ConfigError: There is no such topic, or it lacks one of the partitions.
            ServiceUnavailable: The broker did not answer within `config.connect_timeout_s`.
        """
        count = num_partitions(bootstrap, config.topic, timeout_s=config.connect_timeout_s)
        self._address = bootstrap
        self._topic = config.topic
        self._group = group
        self._membership = Membership(group, -1)
        self._timeout_ms = int(config.connect_timeout_s * 1000)
        self._heard_s = time.monotonic()
        self._silent_since_s: float | None = None
        self._probe = PartitionProbe(bootstrap)
        self._broken_by: Exception | None = None
        self._topic_id: object = None
        wanted = [TopicPartition(config.topic, partition) for partition in partitions or ()]
        if any(partition >= count for _, partition in wanted):
            raise ConfigError("partitions", f"{config.topic!r} has {count}, numbered from 0")
        self._name = GroupName.of(bootstrap, config, group) if partitions is None else None
        try:
            settings = consumer_settings(config, group, self._name)
            self._consumer = connect(KafkaConsumer, bootstrap, config.connect_timeout_s, **settings)
        except MindDistError:
            self._give_name_back()
            raise
        if partitions is None:
            self._consumer.subscribe([config.topic], listener=_Hold(self._consumer) if hold_new else None)
            try:
                self._learn_partitions()
            except ServiceUnavailable:
                self.close()
                raise
        else:
            self._consumer.assign(wanted)

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, at most `max_poll_records`, each partition's in order.

        Raises:
            PositionLost: A position is older than the oldest record kept, or behind the end.
            UnreadableBatch: A batch is damaged, or the library of its codec is not installed; so does every later poll.
            AnotherLog: The topic was made anew meanwhile: the positions mean nothing there.
            ServiceUnavailable: The broker was silent for the connect timeout; polling again goes on without loss.
        """
        began_s = time.monotonic()
        with translated(self._address):
            batches = self._with_positions(lambda: self._fetched(timeout_s))
        self._check_topic()
        self._notice_membership(began_s)
        if batches:
            self._heard()
        else:
            self._notice_silence()
        return [
            Record(each.partition, each.offset, each.key, each.value, _appended_ms(each))
            for batch in batches.values()
            for each in batch
        ]

    def assignment(self) -> frozenset[int]:
        """Return the partitions owned now."""
        return frozenset(partition for _, partition in self._consumer.assignment())

    def position(self) -> Positions:
        """Return the next position of every owned partition."""
        with translated(self._address):
            return {each.partition: self._position_of(each) for each in sorted(self._consumer.assignment())}

    def oldest_positions(self) -> Positions:
        """Return the position of the oldest record kept of every owned partition."""
        with translated(self._address):
            oldest = self._consumer.beginning_offsets(list(self._consumer.assignment()), timeout_ms=self._timeout_ms)
        return {each.partition: offset for each, offset in oldest.items()}

    def end_positions(self) -> Positions:
        """Return the position up to which every owned partition can be read now, exactly."""
        try:
            return self._ends(self._timeout_ms / 1000)
        finally:
            self._probe.close()  # asked once, as by each of many sources, it need not keep a connection

    def written_positions(self) -> Positions:
        """Return the position behind all that is written of every owned partition, open transactions included."""
        try:
            return self._ends(self._timeout_ms / 1000, of_written=True)
        finally:
            self._probe.close()

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        """Return how far every owned partition is from its end."""
        deadline_s = time.monotonic() + timeout_s
        ends = self._ends(timeout_s)
        with translated(self._address):
            reached = {p: self._position_of(TopicPartition(self._topic, p), deadline_s) for p in sorted(ends)}
        return {partition: max(0, end - reached[partition]) for partition, end in ends.items()}

    def seek(self, positions: Positions) -> None:
        """Go on from these positions; partitions not owned are left out."""
        for each in self._owned(positions):
            self._consumer.seek(each, positions[each.partition])

    def commit(self, positions: Positions, notes: Mapping[int, str] | None = None) -> None:
        """Store these positions for the group, and no others, with what is noted beside them.

        Raises:
            StaleAssignment: The group has given our partitions to others; they read again what is not stored.
        """
        noted = notes or {}
        offsets = {
            TopicPartition(self._topic, p): OffsetAndMetadata(at, noted.get(p, ""), -1) for p, at in positions.items()
        }
        try:
            with translated(self._address, passing=_MOVED_ON):
                self._consumer.commit(offsets, timeout_ms=self._timeout_ms)
        except _MOVED_ON as error:
            raise StaleAssignment(f"partitions {sorted(positions)} of {self._topic} have moved on: {error}") from error

    def committed(self) -> Positions:
        """Return the group's stored positions of the owned partitions."""
        with translated(self._address):
            stored = {
                each.partition: self._consumer.committed(each, timeout_ms=self._timeout_ms)
                for each in sorted(self._consumer.assignment())
            }
        return {partition: position for partition, position in stored.items() if position is not None}

    def notes(self) -> Mapping[int, str]:
        """Return what is noted beside the stored positions of the owned partitions."""
        with translated(self._address):
            stored = {
                each.partition: self._consumer.committed(each, metadata=True, timeout_ms=self._timeout_ms)
                for each in sorted(self._consumer.assignment())
            }
        # Tansu keeps no notes, and tells None
        return {partition: (found.metadata or "") if found else "" for partition, found in stored.items()}

    def pause(self, partitions: Iterable[int]) -> None:
        """Poll nothing of these partitions until they are resumed, or owned anew."""
        self._consumer.pause(*self._owned(partitions))

    def resume(self, partitions: Iterable[int]) -> None:
        """Poll these partitions again, from where they are.

        What the client (3.0.12) has at hand of a paused partition it may never look at again, nor fetch anything else of it,
        where the last partition that it returned records of has brought nothing since; so that is dropped.
        """
        owned = self._owned(partitions)
        for each in owned:
            parked = self._consumer._fetcher._paused_partition_records.pop(each, None)  # noqa: SLF001 - as above
            if parked:
                parked.drain()
        self._consumer.resume(*owned)

    def membership(self) -> Membership:
        """Return this consumer's place in its group as of the last poll."""
        return self._membership

    def close(self) -> None:
        """Leave the group, without committing; a static member stays in it until its session ends."""
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_TIMEOUT_MS)
        self._probe.close()
        self._give_name_back()

    def _give_name_back(self) -> None:
        if self._name is not None:
            self._name.close()

    def _notice_membership(self, began_s: float) -> None:
        """Take note of our place in the group, once the partitions are there that belong to it.

        The client (3.0.12) names a new generation as soon as the group has one, while it still has the partitions of the one
        before: what is done with these must be refused, and what comes then is another share-out, though it be the same ones.
        """
        if self._consumer._coordinator.rejoining:  # noqa: SLF001 - the client tells it nowhere else
            return
        joined = self._consumer.group_metadata()
        counted_s = self._counted_s(joined.generation_id, began_s)
        self._membership = Membership(self._group, joined.generation_id, joined, counted_s)

    def _counted_s(self, generation: int, began_s: float) -> float:
        """Return when the group counted us last: a poll may return what was fetched before a freeze, and asks nobody.

        It did when it took a heartbeat, which was sent before it was answered; and when we joined, in a poll that began
        before.
        """
        counted_s = self._membership.counted_s
        if generation >= 0 and generation != self._membership.generation:
            counted_s = began_s
        heartbeat = self._consumer._coordinator.heartbeat  # noqa: SLF001 - the client tells it nowhere else
        is_answered = heartbeat.last_receive >= heartbeat.last_send
        return max(counted_s, heartbeat.last_send) if is_answered else counted_s

    def _check_topic(self) -> None:
        """Notice a topic that was made anew: the client (3.0.12) fetches by name, and would go on at the old positions."""
        found = self._consumer._client.cluster.topic_id(self._topic)  # noqa: SLF001 - the client tells it nowhere else
        if self._topic_id is None:
            self._topic_id = found
        elif found is not None and found != self._topic_id:
            saved, there = (f"topic {self._topic} (id {each})" for each in (self._topic_id, found))
            raise AnotherLog("a consumer", saved, there, "what reads it must begin anew")

    def _fetched(self, timeout_s: float) -> Any:
        """Poll; after a batch that cannot be read never again: the client would not return from that poll."""
        if self._broken_by is not None:
            self._raise_unreadable(self._broken_by)
        self._carry_rejoin_on()
        try:
            return self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except Exception as error:
            if isinstance(error, KafkaError) and not isinstance(error, UNREADABLE):
                raise
            self._broken_by = error
            self._raise_unreadable(error)

    def _carry_rejoin_on(self) -> None:
        """Let the client finish what it began, over more than one poll: to join anew since partitions were added.

        It (3.0.12) tells that it has to by partitions that it has not shared out yet. So once it has shared them out it has
        no reason left, and where a poll ends before the group has answered, no later one takes the answer in: the member keeps
        what it had, sends no heartbeats, and stands still for good. A request lasts until it has joined.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - the client offers it nowhere else
        if self._name is not None and (coordinator.rebalance_in_progress() or coordinator.need_rejoin()):
            coordinator.request_rejoin()

    def _raise_unreadable(self, error: Exception) -> NoReturn:
        if isinstance(error, UnreadableBatch):
            raise error
        owned = self._consumer.assignment()
        positions = {each: self._consumer.position(each, timeout_ms=self._timeout_ms) for each in owned}
        try:
            self._probe.raise_unreadable({each: at for each, at in positions.items() if at is not None}, error)
        except UnreadableBatch as named:
            self._broken_by = named
            raise
        raise error

    def _ends(self, timeout_s: float, *, of_written: bool = False) -> Positions:
        owned = sorted(self._consumer.assignment())
        ends = self._probe.ends(owned, timeout_s, of_written=of_written) if owned else {}
        return {each.partition: end for each, end in ends.items()}

    def _learn_partitions(self) -> None:
        """Wait until the client knows the topic's partitions: if it leads the group, it is these that it shares out.

        A request for metadata that is under way when it subscribes answers for that topic, too, as far as the client can
        tell: it would share out nothing, and ask again only after `metadata_max_age_ms`, five minutes.
        """
        deadline_s = time.monotonic() + self._timeout_ms / 1000
        with translated(self._address):
            while not self._consumer.partitions_for_topic(self._topic):
                if time.monotonic() > deadline_s:
                    raise KafkaTimeoutError(f"no partitions of {self._topic}")

    def _owned(self, partitions: Iterable[int]) -> set[TopicPartition]:
        owned: set[TopicPartition] = self._consumer.assignment()
        return owned & {TopicPartition(self._topic, partition) for partition in partitions}

    def _position_of(self, partition: TopicPartition, deadline_s: float | None = None) -> int:
        left_ms = self._timeout_ms if deadline_s is None else max(1, int((deadline_s - time.monotonic()) * 1000))
        found = self._with_positions(lambda: self._consumer.position(partition, timeout_ms=left_ms))
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


class _Hold(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Pauses what a group gives, before any of it is fetched."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Do nothing: what is not stored is read again."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause them."""
        self._consumer.pause(*assigned)


def _appended_ms(message: Any) -> int:
    """Return when the log took a message; producers of the oldest format send no time, and then it is now."""
    known = message.timestamp is not None and message.timestamp >= 0
    return int(message.timestamp) if known else time.time_ns() // 1_000_000
