"""What a second consumer finds out about partitions: where they end, and which of them cannot be read.

The consumer that delivers records keeps its positions meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError, KafkaTimeoutError, UnsupportedCodecError

from mind_dist.errors import ServiceUnavailable, UnreadableBatch
from mind_dist.log.kafka_broker import connect, translated

Offsets = Mapping[TopicPartition, int]

PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
"""Compression codec → the package that the client needs to read it; gzip comes with Python."""

_SETTINGS: dict[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": 1,
    # In an incremental fetch session a broker answers for the partitions only that have changed: one that stands
    # still would never tell its end again.
    "enable_incremental_fetch_sessions": False,
    "max_poll_records": 1 << 30,  # a poll takes all that a fetch brought, so that the position is behind it
}
_PROBE_POLL_MS = 500
_FRUITLESS_FETCHES = 10
"""Fetches that bring nothing before a partition counts as read to its end, where its high watermark lies further."""


class PartitionProbe:
    """A consumer for questions, connected at the first one; use it from one thread."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer: Any = None

    def ends(self, partitions: Sequence[TopicPartition], timeout_s: float, *, of_written: bool = False) -> Offsets:
        """Return the position up to which each partition can be read now: behind it lie open transactions, or nothing.

        With `of_written`, return the position behind these transactions, too.

        Asked for the end, Apache Kafka answers exactly; Tansu with the newest batch's *first* record + 1, or worse. So a
        fetch is done there, and again where that one came to, until there is nothing more to read.

        Raises:
            ServiceUnavailable: The broker did not answer within `timeout_s`.
            UnreadableBatch: On Tansu, the newest batch cannot be read.
        """
        deadline_s = time.monotonic() + timeout_s
        starts: Offsets = {}
        try:
            with translated(self._bootstrap, passing=UNREADABLE):
                consumer = self._connected(timeout_s)
                starts = _ends(consumer, partitions, deadline_s)
                reached, watermarks = _read_on(consumer, starts, deadline_s)
                return watermarks if of_written else reached
        except Exception as error:
            self.close()  # it may have requests under way that would answer for another time
            if not isinstance(error, ServiceUnavailable):
                self.raise_unreadable(starts, error)
            raise

    def raise_unreadable(self, positions: Offsets, error: Exception) -> None:
        """Raise an `UnreadableBatch` for the partition that fails like `error`; return when none does.

        The client says neither which partition nor which position its error is about. One after another tells.
        """
        consumer = self._connected(timeout_s=30.0)
        try:
            for partition, position in positions.items():
                consumer.assign([partition])
                consumer.seek(partition, position)
                try:
                    consumer.poll(timeout_ms=_PROBE_POLL_MS)
                except Exception as found:  # noqa: BLE001 - codec libraries raise errors of their own
                    if isinstance(found, KafkaError) and not isinstance(found, UNREADABLE):
                        continue  # another problem of that partition, which its own poll will raise
                    raise _unreadable(partition, consumer.position(partition), found) from error
        finally:
            self.close()

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False)
            self._consumer = None

    def _connected(self, timeout_s: float) -> Any:
        if self._consumer is None:
            self._consumer = connect(KafkaConsumer, self._bootstrap, timeout_s, **_SETTINGS)
        return self._consumer


UNREADABLE = (UnsupportedCodecError, CorruptRecordError)
"""Errors of the client about a batch's content; damaged compressed data raises the codec library's own instead."""


def _ends(consumer: Any, partitions: Sequence[TopicPartition], deadline_s: float) -> Offsets:
    try:
        ends: Offsets = consumer.end_offsets(partitions, timeout_ms=_left_ms(deadline_s))
    except KeyError as error:  # the client forgets to say so
        raise KafkaTimeoutError(f"there is no partition {error}") from error
    return ends


def _read_on(consumer: Any, starts: Offsets, deadline_s: float) -> tuple[Offsets, Offsets]:
    """Return where each partition can be read to, starting not far before it, and its high watermark.

    A fetch may bring nothing though there is something: the broker answered before it had read. So a partition whose
    high watermark lies further counts as read to its end, a transaction under way behind it, after some such fetches.
    """
    num_fruitless = 0
    while True:
        reached, watermarks = _fetch(consumer, starts, deadline_s)
        if reached == watermarks or num_fruitless == _FRUITLESS_FETCHES:
            return reached, watermarks
        if time.monotonic() > deadline_s:
            raise KafkaTimeoutError(f"no end of partitions {[partition.partition for partition in starts]}")
        num_fruitless = num_fruitless + 1 if reached == starts else 0
        starts = reached


def _fetch(consumer: Any, starts: Offsets, deadline_s: float) -> tuple[Offsets, Offsets]:
    """Return the positions behind one fetch of every partition, and the high watermarks it told."""
    consumer.unsubscribe()  # forgets the watermarks of the fetch before
    consumer.assign(list(starts))
    for partition, start in starts.items():
        consumer.seek(partition, start)
    while any(consumer.highwater(partition) is None for partition in starts):
        if time.monotonic() > deadline_s:
            missing = [partition.partition for partition in starts if consumer.highwater(partition) is None]
            raise KafkaTimeoutError(f"no end of partitions {missing}")
        consumer.poll(timeout_ms=5)
    reached = {partition: int(consumer.position(partition)) for partition in starts}
    return reached, {partition: int(consumer.highwater(partition)) for partition in starts}


def _unreadable(partition: TopicPartition, position: int, error: Exception) -> UnreadableBatch:
    codec = next((name for name in PACKAGES if isinstance(error, UnsupportedCodecError) and name in str(error)), "")
    reason = f"{type(error).__name__}: {error}"
    package = PACKAGES.get(codec, "")
    return UnreadableBatch(partition.topic, partition.partition, position, reason, codec=codec, package=package)


def _left_ms(deadline_s: float) -> int:
    return max(1, int((deadline_s - time.monotonic()) * 1000))
