"""A group member that was frozen past its session: what the in-memory source does after `InMemoryLog.evict`, for real."""

import time
import uuid
from contextlib import closing

import pytest
from kafka import KafkaProducer

from mind_dist.config import KafkaConfig
from mind_dist.errors import StaleAssignment
from mind_dist.log.kafka import KafkaSource, ensure_topics
from mind_dist.records import Record
from tests.group_member import member_process
from tests.services import BROKERS

NUM_RECORDS = 20


@pytest.mark.parametrize("broker", [broker for broker in BROKERS if broker != "tansu_broker"])
def test_a_frozen_member_still_gets_what_it_had_fetched_and_may_not_commit(
    broker: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(broker)
    config = KafkaConfig(topic=f"events-{uuid.uuid4().hex}", session_timeout_s=6, max_poll_records=5)
    ensure_topics(address, {config.topic: 1})
    with closing(KafkaProducer(bootstrap_servers=address)) as producer:
        for number in range(NUM_RECORDS):
            producer.send(config.topic, value=b"%d" % number, partition=0)
    group = f"group-{config.topic}"
    with member_process(address, config, group) as frozen, closing(KafkaSource(address, config, group)) as next_owner:
        first: list[Record] = []
        while not first:
            first = frozen.call("poll", 0.2)
        frozen.freeze()
        taken: list[int] = []
        deadline_s = time.monotonic() + 60
        while len(taken) < NUM_RECORDS:
            assert time.monotonic() < deadline_s
            taken += [record.offset for record in next_owner.poll(0.2)]
        next_owner.commit({0: NUM_RECORDS})
        frozen.wake()
        late = [record.offset for record in frozen.call("poll", 0.2)]
        assert frozen.call("assignment") == ({0} if late else frozenset())
        assert late in ([5, 6, 7, 8, 9], []), "whether it notices first is chance"
        with pytest.raises(StaleAssignment):
            frozen.call("commit", {0: 10})
        assert dict(next_owner.committed()) == {0: NUM_RECORDS}
