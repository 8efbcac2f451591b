"""What every `EventSource` promises, over the in-memory log and every broker that can run here."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from mind_dist.config import KafkaConfig
from mind_dist.data.kafka import KafkaSource, ensure_topics
from mind_dist.data.source import EventSource, InMemoryLog, InMemorySource
from mind_dist.errors import PositionLost
from mind_dist.records import Record
from tests.services import BROKERS

NUM_PARTITIONS = 4


class Log(Protocol):
    """A fresh log of four partitions."""

    def append(self, partition: int, *values: bytes) -> None: ...

    def truncate(self, partition: int, first: int) -> None: ...

    def open(self, group: str = "g", partitions: Iterable[int] | None = None) -> EventSource: ...


class MemoryLog:
    def __init__(self) -> None:
        self.log = InMemoryLog(NUM_PARTITIONS)

    def append(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.log.append(b"7", value, partition)

    def truncate(self, partition: int, first: int) -> None:
        self.log.truncate(partition, first)

    def open(self, group: str = "g", partitions: Iterable[int] | None = None) -> EventSource:
        return InMemorySource(self.log, group, partitions)


class BrokerLog:
    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.config = KafkaConfig(topic=f"events-{uuid.uuid4().hex}")
        self.opened: list[EventSource] = []
        ensure_topics(bootstrap, {self.config.topic: NUM_PARTITIONS})
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)

    def append(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.producer.send(self.config.topic, key=b"7", value=value, partition=partition)
        self.producer.flush()

    def truncate(self, partition: int, first: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.delete_records({TopicPartition(self.config.topic, partition): first})

    def open(self, group: str = "g", partitions: Iterable[int] | None = None) -> EventSource:
        self.opened.append(KafkaSource(self.bootstrap, self.config, group, partitions=partitions))
        return self.opened[-1]

    def close(self) -> None:
        for source in self.opened:
            source.close()
        self.producer.close()


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A log in memory, or at the broker whose fixture's name is the parameter."""
    if request.param == "memory":
        yield MemoryLog()
    else:
        with closing(BrokerLog(request.getfixturevalue(request.param))) as broker_log:
            yield broker_log


everywhere = pytest.mark.parametrize("log", ["memory", *BROKERS], indirect=True)
on_brokers = pytest.mark.parametrize("log", BROKERS, indirect=True)
where_records_expire = pytest.mark.parametrize(  # Tansu has no DeleteRecords
    "log", ["memory", *(broker for broker in BROKERS if broker != "tansu_broker")], indirect=True
)


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


@everywhere
def test_a_paused_partition_is_silent_until_resumed(log: Log) -> None:
    source = log.open(partitions=[0, 1])
    source.pause([0])
    log.append(0, b"a", b"b")
    log.append(1, b"x")
    assert [record.value for record in read(source, 1)] == [b"x"]
    assert list(source.poll(0.3)) == []
    source.resume([0])
    assert [record.value for record in read(source, 2)] == [b"a", b"b"]


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


@on_brokers
def test_a_pause_outlives_a_rebalance(log: Log) -> None:
    first = log.open()
    wait(lambda: bool(first.poll(0.1) or len(first.assignment()) == NUM_PARTITIONS))
    first.pause([0])
    second = log.open()
    wait(lambda: not poll_together(first, second) and len(first.assignment()) == len(second.assignment()) == 2)
    second.close()
    wait(lambda: not first.poll(0.1) and len(first.assignment()) == NUM_PARTITIONS)
    log.append(0, b"held back")
    log.append(1, b"flows")
    assert [record.value for record in read(first, 1)] == [b"flows"]
    first.resume([0])
    assert [record.value for record in read(first, 1)] == [b"held back"]
