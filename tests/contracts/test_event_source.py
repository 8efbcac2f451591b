"""What every `EventSource` promises, over the in-memory log and every broker that can run here.

`MIND_DIST_STAND_STILL_S=120` lets partitions stand still for two minutes instead of eight seconds.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import kafka.codec
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from mind_dist.config import KafkaConfig
from mind_dist.errors import PositionLost, StaleAssignment, UnreadableBatch
from mind_dist.log.kafka import KafkaSource, ensure_topics
from mind_dist.log.source import EventSource, InMemoryLog, InMemorySource
from mind_dist.records import Record
from tests.services import BROKERS

NUM_PARTITIONS = 4
STAND_STILL_S = float(os.environ.get("MIND_DIST_STAND_STILL_S", "8"))
"""Longer than a session, and than metadata are kept."""
PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}


class Log(Protocol):
    """A fresh log of four partitions."""

    def append(self, partition: int, *values: bytes | None, key: bytes | None = b"7", codec: str = "") -> None: ...

    def append_transaction(self, partition: int, *values: bytes, commit: bool = True) -> None: ...

    def append_unreadable(self, partition: int, codec: str) -> None: ...

    def truncate(self, partition: int, first: int) -> None: ...

    def grow(self, num_partitions: int) -> None: ...

    def evict(self, group: str) -> None: ...

    def open(self, group: str = "g", partitions: Iterable[int] | None = None, **limits: Any) -> EventSource: ...


class MemoryLog:
    def __init__(self) -> None:
        self.log = InMemoryLog(NUM_PARTITIONS)

    def append(self, partition: int, *values: bytes | None, key: bytes | None = b"7", codec: str = "") -> None:
        assert not codec, "memory knows no compression"
        for value in values:
            self.log.append(key, value, partition)

    def append_transaction(self, partition: int, *values: bytes, commit: bool = True) -> None:
        if commit:
            self.append(partition, *values)
        else:
            self.log.skip(partition, len(values))
        self.log.skip(partition)

    def append_unreadable(self, partition: int, codec: str) -> None:
        self.log.append_unreadable(partition, codec, PACKAGES[codec])

    def truncate(self, partition: int, first: int) -> None:
        self.log.truncate(partition, first)

    def grow(self, num_partitions: int) -> None:
        self.log.grow(num_partitions)

    def evict(self, group: str) -> None:
        self.log.evict(group)

    def open(self, group: str = "g", partitions: Iterable[int] | None = None, **limits: Any) -> EventSource:
        return InMemorySource(self.log, group, partitions, limits.get("max_poll_records", 500))


class BrokerLog:
    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.config = KafkaConfig(
            topic=f"events-{uuid.uuid4().hex}",
            connect_timeout_s=8,
            session_timeout_s=6,
            max_poll_interval_s=2,
            metadata_max_age_s=1,
        )
        self.opened: list[EventSource] = []
        self.patch = pytest.MonkeyPatch()
        ensure_topics(bootstrap, {self.config.topic: NUM_PARTITIONS})
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)

    def append(self, partition: int, *values: bytes | None, key: bytes | None = b"7", codec: str = "") -> None:
        if codec:
            with closing(
                KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=20, compression_type=codec)
            ) as other:
                self.send(other, partition, values, key)
        else:
            self.send(self.producer, partition, values, key)

    def send(self, producer: Any, partition: int, values: Iterable[bytes | None], key: bytes | None = b"7") -> None:
        headers = [("trace", b"\xff\x00"), ("trace", b""), ("spur-ü", b"1")]
        topic = self.config.topic
        sent = [producer.send(topic, key=key, value=value, partition=partition, headers=headers) for value in values]
        for future in sent:  # a flush would not tell of a record that could not be written
            future.get(30)

    @contextmanager
    def transaction(self, partition: int, *values: bytes, commit: bool = True) -> Iterator[None]:
        """Write in a transaction that is under way inside the context."""
        name = uuid.uuid4().hex
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=name, retry_backoff_ms=5)
        with closing(producer):
            producer.init_transactions()
            producer.begin_transaction()
            self.send(producer, partition, values)
            yield
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()

    def append_transaction(self, partition: int, *values: bytes, commit: bool = True) -> None:
        with self.transaction(partition, *values, commit=commit):
            pass

    def append_unreadable(self, partition: int, codec: str) -> None:
        self.append(partition, b"compressed" * 100, codec=codec)
        self.patch.setattr(kafka.codec, codec, None)  # what the client's import leaves there without the library

    def truncate(self, partition: int, first: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.delete_records({TopicPartition(self.config.topic, partition): first})

    def grow(self, num_partitions: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_partitions({self.config.topic: num_partitions})
        self.producer.close()
        self.producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=20)  # one that knows of them

    def evict(self, group: str) -> None:
        """Wait until the broker has thrown out whoever does not poll."""
        assert group
        time.sleep(self.config.max_poll_interval_s + 1)

    def open(self, group: str = "g", partitions: Iterable[int] | None = None, **limits: Any) -> EventSource:
        config = replace(self.config, **limits)
        self.opened.append(KafkaSource(self.bootstrap, config, f"{group}-{config.topic}", partitions=partitions))
        return self.opened[-1]

    def close(self) -> None:
        for source in self.opened:
            source.close()
        self.producer.close()
        self.patch.undo()


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A log in memory, or at the broker whose fixture's name is the parameter."""
    if request.param == "memory":
        yield MemoryLog()
    else:
        with closing(BrokerLog(request.getfixturevalue(request.param))) as broker_log:
            yield broker_log


LIKE_APACHE = [broker for broker in BROKERS if broker != "tansu_broker"]
everywhere = pytest.mark.parametrize("log", ["memory", *BROKERS], indirect=True)
on_brokers = pytest.mark.parametrize("log", BROKERS, indirect=True)
where_records_expire = pytest.mark.parametrize("log", ["memory", *LIKE_APACHE], indirect=True)
"""Tansu has no DeleteRecords."""
where_transactions_count = pytest.mark.parametrize("log", ["memory", *LIKE_APACHE], indirect=True)
"""Tansu shows the records of transactions that were aborted."""
where_topics_grow = pytest.mark.parametrize("log", ["memory", *LIKE_APACHE], indirect=True)
"""Tansu has no CreatePartitions."""


def read(source: EventSource, count: int, timeout_s: float = 20) -> list[Record]:
    """Poll until `count` records came."""
    records: list[Record] = []
    deadline_s = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < deadline_s:
        records += source.poll(0.2)
    assert len(records) == count
    return records


def wait(met: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline_s, "it did not come to pass in time"


def poll_together(*members: EventSource) -> list[Record]:
    """Poll members of one group at the same time, as they are.

    In turns they could join for ever: a leader whose join is answered between its polls joins again, and while the
    other one's poll is what completes the group, it always is.
    """
    with ThreadPoolExecutor(len(members)) as pool:
        return [record for records in pool.map(lambda member: member.poll(0.2), members) for record in records]


def values_of(records: Iterable[Record], partition: int) -> list[bytes | None]:
    return [record.value for record in records if record.partition == partition]


@everywhere
def test_records_come_in_order_with_their_origin_and_time(log: Log) -> None:
    before_ms = time.time_ns() // 1_000_000
    log.append(0, b"a", b"b", b"c")
    log.append(2, b"d")
    records = read(log.open(partitions=range(NUM_PARTITIONS)), 4)
    assert values_of(records, 0) == [b"a", b"b", b"c"]
    assert [(record.offset, record.key) for record in records if record.partition == 0] == [
        (0, b"7"),
        (1, b"7"),
        (2, b"7"),
    ]
    assert values_of(records, 2) == [b"d"]
    assert all(before_ms - 2000 <= record.appended_ms <= time.time_ns() // 1_000_000 + 2000 for record in records)


@everywhere
def test_an_empty_poll_returns_nothing_within_its_time(log: Log) -> None:
    source = log.open(partitions=[0])
    source.position()
    start_s = time.monotonic()
    assert list(source.poll(0.3)) == []
    assert time.monotonic() - start_s < 2


@everywhere
def test_positions_follow_what_was_polled_and_ends_what_was_written(log: Log) -> None:
    log.append(0, b"a", b"b", b"c")
    source = log.open(partitions=[0, 1])
    assert source.assignment() == {0, 1}
    assert dict(source.oldest_positions()) == {0: 0, 1: 0}
    assert dict(source.position()) == {0: 0, 1: 0}
    assert dict(source.end_positions()) == {0: 3, 1: 0}
    read(source, 3)
    assert dict(source.position()) == {0: 3, 1: 0}
    log.append(0, b"d", b"e")
    log.append(1, b"f")
    assert dict(source.end_positions()) == {0: 5, 1: 1}
    assert dict(source.position()) == {0: 3, 1: 0}


@everywhere
def test_seek_goes_back_and_forth(log: Log) -> None:
    log.append(0, b"a", b"b", b"c")
    log.append(1, b"x")
    source = log.open(partitions=[0, 1])
    read(source, 4)
    source.seek({0: 1, 3: 0})
    assert dict(source.position()) == {0: 1, 1: 1}
    assert [record.value for record in read(source, 2)] == [b"b", b"c"]
    source.seek({0: 2})
    assert [record.value for record in read(source, 1)] == [b"c"]


@everywhere
def test_committed_positions_survive_reopening_and_nothing_else_does(log: Log) -> None:
    log.append(0, b"a", b"b", b"c")
    log.append(1, b"x")
    source = log.open(partitions=[0, 1])
    assert dict(source.committed()) == {}
    read(source, 4)
    source.commit({0: 2})
    assert dict(source.committed()) == {0: 2}
    source.close()
    reopened = log.open(partitions=[0, 1])
    assert dict(reopened.committed()) == {0: 2}
    assert dict(reopened.position()) == {0: 2, 1: 0}
    assert sorted(record.value or b"" for record in read(reopened, 2)) == [b"c", b"x"]
    assert dict(log.open("another", partitions=[0]).committed()) == {}


@where_records_expire
def test_a_position_older_than_the_oldest_record_is_an_error_that_names_both(log: Log) -> None:
    log.append(0, b"a", b"b", b"c", b"d")
    source = log.open(partitions=[0])
    read(source, 4)
    source.commit({0: 1})
    log.truncate(0, 3)
    for reader in (log.open(partitions=[0]), source):
        if reader is source:
            source.seek({0: 1})
        with pytest.raises(PositionLost) as lost:
            wait(lambda reader=reader: bool(reader.poll(0.2)))  # type: ignore[misc]
        assert (lost.value.partition, lost.value.wanted, lost.value.oldest) == (0, 1, 3)
    fresh = log.open("fresh", partitions=[0])
    assert [record.offset for record in read(fresh, 1)] == [3]


@where_records_expire
def test_a_position_behind_the_end_is_lost_too(log: Log) -> None:
    log.append(0, b"a")
    source = log.open(partitions=[0])
    source.seek({0: 50})
    with pytest.raises(PositionLost):
        wait(lambda: bool(source.poll(0.2)))


@on_brokers
def test_two_members_share_the_partitions_and_a_leaver_gives_its_own_back(log: Log) -> None:
    for partition in range(NUM_PARTITIONS):
        log.append(partition, b"%d" % partition)
    first, second = log.open(), log.open()
    seen: list[Record] = []

    def balanced() -> bool:
        seen.extend(poll_together(first, second))
        return len(first.assignment()) == len(second.assignment()) == 2

    wait(balanced)
    assert first.assignment() | second.assignment() == set(range(NUM_PARTITIONS))
    wait(lambda: balanced() and {record.partition for record in seen} == set(range(NUM_PARTITIONS)))
    for source in (first, second):
        source.commit(dict.fromkeys(source.assignment(), 1))
    second.close()
    wait(lambda: bool(first.poll(0.1) or len(first.assignment()) == NUM_PARTITIONS))
    assert set(first.committed().values()) == {1}
    log.append(0, b"more")
    log.append(3, b"more")
    assert {record.value for record in read(first, 2)} == {b"more"}


@on_brokers
def test_a_member_knows_the_partitions_it_may_have_to_share_out_before_it_joins(log: Log) -> None:
    source = log.open()
    assert isinstance(source, KafkaSource)
    assert source._consumer._cluster.partitions_for_topic(source._topic) == set(range(NUM_PARTITIONS))
    assert source.assignment() == frozenset()


@everywhere
def test_partitions_that_stand_still_tell_their_end_and_their_lag_every_time(log: Log) -> None:
    log.append(0, b"a", b"b", b"c")
    log.append(1, b"x")
    source = log.open(partitions=range(NUM_PARTITIONS))
    read(source, 4)
    written = 0
    deadline_s = time.monotonic() + (1 if isinstance(log, MemoryLog) else STAND_STILL_S)  # memory has no sessions
    while time.monotonic() < deadline_s:
        for _ in range(3):
            assert dict(source.end_positions()) == {0: 3, 1: 1 + written, 2: 0, 3: 0}
            assert dict(source.lag(5)) == dict.fromkeys(range(NUM_PARTITIONS), 0)
            assert list(source.poll(0.3)) == []
        log.append(1, b"y")  # one of them moves now and then, the others never
        written += 1
        assert dict(source.lag(5)) == {0: 0, 1: 1, 2: 0, 3: 0}
        assert [record.value for record in read(source, 1)] == [b"y"]


@everywhere
def test_more_than_ten_thousand_records_of_one_partition_come_in_order_beside_silent_ones(log: Log) -> None:
    log.append(2, *(b"%d" % number for number in range(12_000)))
    source = log.open(partitions=range(NUM_PARTITIONS))
    records = read(source, 12_000, timeout_s=60)
    assert [(record.partition, record.offset, record.value) for record in records] == [
        (2, number, b"%d" % number) for number in range(12_000)
    ]
    assert dict(source.position()) == dict(source.end_positions()) == {0: 0, 1: 0, 2: 12_000, 3: 0}


@everywhere
def test_null_keys_null_values_keys_that_are_no_utf_8_and_headers_come_as_they_are(log: Log) -> None:
    log.append(0, b"a", key=None)
    log.append(0, b"b", key=b"\xff\xfe\x00")
    log.append(0, None, key=b"7")
    log.append(0, b"", key=b"")
    records = read(log.open(partitions=[0]), 4)
    assert [(record.key, record.value) for record in records] == [
        (None, b"a"),
        (b"\xff\xfe\x00", b"b"),
        (b"7", None),
        (b"", b""),
    ]


@on_brokers
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_of_every_codec_come(log: Log, codec: str) -> None:
    values = [b"%d" % number * 50 for number in range(2000)]
    log.append(0, b"plain")
    log.append(0, *values, codec=codec)
    log.append(1, *values, codec=codec)
    source = log.open(partitions=[0, 1])
    assert dict(source.end_positions()) == {0: 2001, 1: 2000}
    records = read(source, 4001)
    assert values_of(records, 0) == [b"plain", *values]
    assert values_of(records, 1) == values
    source.seek({1: 1234})
    assert [record.value for record in read(source, 2000 - 1234)] == values[1234:]


@everywhere
@pytest.mark.parametrize("codec", PACKAGES)
def test_a_codec_without_its_library_is_an_error_that_names_partition_and_package(log: Log, codec: str) -> None:
    log.append(0, b"a")
    log.append(1, b"x", b"y")
    log.append_unreadable(1, codec)
    source = log.open(partitions=[0, 1, 2])
    records = read(source, 3)
    assert (values_of(records, 0), values_of(records, 1)) == ([b"a"], [b"x", b"y"])
    for _ in range(3):  # however often: it neither hangs nor goes on without that batch
        with pytest.raises(UnreadableBatch, match=f"pip install {PACKAGES[codec]}") as unreadable:
            wait(lambda: bool(source.poll(0.2)))
        assert (unreadable.value.partition, unreadable.value.position, unreadable.value.codec) == (1, 2, codec)
    assert source.position()[1] == 2


@pytest.mark.parametrize("log", ["tansu_broker"], indirect=True)  # Apache Kafka takes no such batch from a producer
def test_a_damaged_batch_is_an_error_that_names_partition_and_position(
    log: BrokerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(1, b"x")
    with monkeypatch.context() as patch:
        patch.setattr("kafka.record.default_records.gzip_encode", lambda _payload, **_options: b"damaged")
        log.append(1, b"y" * 100, codec="gzip")
    source = log.open(partitions=[0, 1])
    assert [record.value for record in read(source, 1)] == [b"x"]
    with pytest.raises(UnreadableBatch, match="it is damaged") as unreadable:
        wait(lambda: bool(source.poll(0.2)))
    assert (unreadable.value.partition, unreadable.value.position, unreadable.value.codec) == (1, 1, "")


@everywhere
def test_positions_pass_the_markers_of_transactions(log: Log) -> None:
    log.append_transaction(0, b"a", b"b")
    log.append_transaction(1, b"x")
    log.append(0, b"c")
    log.append_transaction(0, b"d")
    source = log.open(partitions=[0, 1])
    records = read(source, 5)
    assert [(record.offset, record.value) for record in records if record.partition == 0] == [
        (0, b"a"),
        (1, b"b"),
        (3, b"c"),
        (4, b"d"),
    ]
    wait(lambda: not source.poll(0.1) and dict(source.position()) == {0: 6, 1: 2})
    assert dict(source.end_positions()) == {0: 6, 1: 2}
    assert dict(source.lag(5)) == {0: 0, 1: 0}
    source.seek({0: 2})
    assert [record.value for record in read(source, 2)] == [b"c", b"d"]


@where_transactions_count
def test_records_of_aborted_transactions_never_come(log: Log) -> None:
    log.append_transaction(0, b"a")
    log.append_transaction(0, b"aborted", b"aborted", commit=False)
    log.append(0, b"b")
    log.append_transaction(0, b"aborted", commit=False)
    source = log.open(partitions=[0])
    assert [(record.offset, record.value) for record in read(source, 2)] == [(0, b"a"), (5, b"b")]
    wait(lambda: not source.poll(0.1) and dict(source.position()) == {0: 8})
    assert dict(source.end_positions()) == {0: 8}


@pytest.mark.parametrize("log", LIKE_APACHE, indirect=True)
def test_the_end_lies_before_a_transaction_under_way(log: BrokerLog) -> None:
    log.append(0, b"a")
    source = log.open(partitions=[0, 1])
    with log.transaction(0, b"later"):
        log.append(0, b"behind it")
        assert [record.value for record in read(source, 1)] == [b"a"]
        assert list(source.poll(0.5)) == []
        assert dict(source.end_positions()) == dict(source.position()) == {0: 1, 1: 0}
    assert [record.value for record in read(source, 2)] == [b"later", b"behind it"]
    wait(lambda: dict(source.end_positions()) == {0: 4, 1: 0})


@where_topics_grow
def test_a_group_takes_over_partitions_that_are_added_and_a_source_by_hand_keeps_its_own(log: Log) -> None:
    member, by_hand = log.open(), log.open("another", partitions=range(NUM_PARTITIONS))
    log.append(0, b"a")
    assert [record.value for record in read(member, 1)] == [b"a"]
    member.commit({0: 1})
    log.grow(NUM_PARTITIONS + 2)
    wait(lambda: not member.poll(0.1) and member.assignment() == set(range(NUM_PARTITIONS + 2)))
    log.append(5, b"new")
    log.append(0, b"b")
    assert sorted(record.value or b"" for record in read(member, 2)) == [b"b", b"new"]
    wait(lambda: not member.poll(0.1) and member.end_positions()[5] == 1)
    assert sorted(record.value or b"" for record in read(by_hand, 2)) == [b"a", b"b"]
    assert by_hand.assignment() == set(range(NUM_PARTITIONS))


@pytest.mark.parametrize("log", LIKE_APACHE, indirect=True)
def test_added_partitions_are_taken_over_though_a_poll_ends_while_they_are_shared_out(
    log: BrokerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = log.open()
    log.append(0, b"a")
    assert [record.value for record in read(member, 1)] == [b"a"]
    assert isinstance(member, KafkaSource)
    coordinator = member._consumer._coordinator
    share_out, times = coordinator._perform_assignment, list[float]()

    def share_out_slowly(*arguments: Any) -> Any:
        time.sleep(0.3)  # as where a processor is not to be had: a poll of 0.1 s is over before the group has answered
        times.append(time.monotonic())
        return share_out(*arguments)

    monkeypatch.setattr(coordinator, "_perform_assignment", share_out_slowly)
    log.grow(NUM_PARTITIONS + 2)
    wait(lambda: not member.poll(0.1) and member.assignment() == set(range(NUM_PARTITIONS + 2)))
    assert times
    log.append(5, b"new")
    assert [record.value for record in read(member, 1)] == [b"new"]


@everywhere
def test_a_member_too_slow_for_its_group_may_not_commit_and_then_reads_again_what_it_had_not(log: Log) -> None:
    for partition in range(NUM_PARTITIONS):
        log.append(partition, *(b"%d" % number for number in range(10)))
    slow = log.open(max_poll_records=5)
    first = read(slow, 5)
    done = {first[0].partition: first[2].offset + 1}
    slow.commit(done)
    log.evict("g")
    with pytest.raises(StaleAssignment):
        slow.commit({first[0].partition: first[-1].offset + 1})
    expected = {(p, offset) for p in range(NUM_PARTITIONS) for offset in range(done.get(p, 0), 10)}
    seen: set[tuple[int, int]] = set()

    def has_read_all() -> bool:
        records = slow.poll(0.2)
        seen.update((record.partition, record.offset) for record in records)
        return seen >= expected and not records

    wait(has_read_all)
    assert seen == expected
    slow.commit(slow.position())
    assert dict(slow.committed()) == dict.fromkeys(range(NUM_PARTITIONS), 10)
