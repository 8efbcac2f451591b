"""Events at a pace from a producer in the background, which knows what the broker has acknowledged."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaProducer

from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import Record
from tests.background import Background
from tests.drills.worlds import USERS, DrillWorld
from tests.state_worlds import KeyValue, mixed_log

_CHUNK = 20


class Load(Background):
    """Sends while it is entered; whatever happens to the broker, it tries again.

    Args:
        drill: Where to.
        per_s: Events a second.
        seed: Of what they say.
        num_users: Whom they are of.
        forget: Have some users forgotten now and then.
    """

    def __init__(
        self, drill: DrillWorld, per_s: int, seed: int, *, num_users: int = USERS, forget: bool = True
    ) -> None:
        super().__init__()
        self.per_s = per_s
        self._drill = drill
        self._seed = seed
        self._num_users = num_users
        self._forget = forget
        self._sent: list[tuple[KeyValue, Any]] = []

    def work(self) -> None:
        world, draw = self._drill.world, random.Random(self._seed)
        settings = {"acks": "all", "linger_ms": 5, "delivery_timeout_ms": 120_000, "reconnect_backoff_max_ms": 1000}
        with closing(KafkaProducer(bootstrap_servers=world.place.kafka, **settings)) as producer:
            started, count = time.monotonic(), 0
            while not self.ended.is_set():
                while count < (time.monotonic() - started) * self.per_s:
                    first_ms = self._drill.later(_CHUNK)
                    for each in mixed_log(_CHUNK, self._num_users, draw.randrange(1 << 30), first_ms):
                        if each.value is None and not self._forget:
                            continue
                        partition = home_partition(key_hash(each.key or b""), world.partitions)
                        future = producer.send(world.place.topic, each.value, each.key, partition=partition)
                        self._sent.append((each, future))
                    count += _CHUNK
                self.ended.wait(0.02)
            producer.flush(timeout=120)

    @property
    def num_sent(self) -> int:
        """How many were sent."""
        return len(self._sent)

    def num_lost(self, events: Sequence[Record]) -> int:
        """Return how many acknowledged records a log does not have where the broker said."""
        there = {(record.partition, record.offset): (record.key, record.value) for record in events}
        told = [(each, future.value) for each, future in self._sent if future.succeeded()]
        return sum(there.get((at.partition, at.offset)) != tuple(each) for each, at in told)
