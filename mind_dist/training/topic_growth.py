"""Partitions that are added to a topic, while a run follows it or before it began: noticed here, by the driver."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from mind_dist.config import KafkaConfig
from mind_dist.errors import MindDistError
from mind_dist.log.kafka import KafkaSource, num_partitions
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import FOREVER_MS, Record

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 10.0
_ANSWER_WITHIN_S = 5.0
_SAMPLE_SIZE = 100
"""Oldest records of a partition whose keys tell how many partitions there were then."""
_LEAST_USERS = 8
"""Users whose partition must be explained before it is believed that the topic has grown."""
_CLOCKS_DIFFER_MS = 1000
"""So long before the oldest record of a new partition, records may have been placed among the new number."""


class TopicGrowth:
    """Watches how many partitions a topic has.

    Args:
        bootstrap: Addresses of brokers.
        kafka: The topic.
        wait_s: How long to go on after growth was noticed: producers learn of new partitions late, and a user's events
            are in two partitions until the last of them has.
        clock: Seconds that never go back.
    """

    def __init__(
        self, bootstrap: str, kafka: KafkaConfig, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bootstrap = bootstrap
        self._kafka = kafka
        self._wait_s = wait_s
        self._clock = clock
        self._ask_at_s = clock() + _ASK_EVERY_S
        self._noticed_s: float | None = None

    def count(self) -> int:
        """Return how many partitions the topic has now.

        Raises:
            ConfigError: There is no such topic.
            ServiceUnavailable: The broker did not answer in time.
        """
        self._noticed_s = None
        return num_partitions(self._bootstrap, self._kafka.topic, timeout_s=self._kafka.connect_timeout_s)

    def due(self, opened: int) -> bool:
        """Tell whether a run over the first `opened` partitions is to end now, to go on with all.

        The broker is asked now and then; one that does not answer is asked again later: the run notices by itself when
        it is gone for long.
        """
        now_s = self._clock()
        if self._noticed_s is None and now_s >= self._ask_at_s:
            self._ask_at_s = now_s + _ASK_EVERY_S
            self._notice(opened)
        return self._noticed_s is not None and now_s >= self._noticed_s + self._wait_s

    def _notice(self, opened: int) -> None:
        topic = self._kafka.topic
        try:
            count = num_partitions(self._bootstrap, topic, timeout_s=_ANSWER_WITHIN_S)
        except MindDistError as error:
            logger.warning("cannot ask how many partitions the topic has", extra={"fields": {"error": error}})
            return
        if count > opened:
            self._noticed_s = self._clock()
            fields = {"topic": topic, "opened": opened, "partitions": count, "wait_s": self._wait_s}
            logger.info(
                "the topic has grown: all partitions are opened after a wait for producers", extra={"fields": fields}
            )


@dataclass(frozen=True)
class Stage:
    """A part of training a topic that has grown: what was placed among some number of its partitions.

    Attributes:
        num_partitions: Their number.
        until_ms: Records appended from then on are left to the stages that follow.
    """

    num_partitions: int
    until_ms: int = FOREVER_MS


def stages(bootstrap: str, kafka: KafkaConfig, saved: int, count: int) -> list[Stage]:
    """Return how to train a topic, one number of partitions after the other, as far as its oldest records tell.

    A user whose events lie in a partition that Kafka's partitioner chose among fewer ones has later events in another.

    Args:
        bootstrap: Addresses of brokers.
        kafka: The topic.
        saved: Partitions in the run's newest version, 0 without one.
        count: Partitions there are now.
    """
    if saved == count:
        return [Stage(count)]
    samples = {partition: _oldest(bootstrap, kafka, partition) for partition in range(saved, count)}
    return stages_explaining(samples, saved, count)


def _oldest(bootstrap: str, kafka: KafkaConfig, partition: int) -> list[Record]:
    config = dataclasses.replace(kafka, max_poll_records=_SAMPLE_SIZE)
    found: list[Record] = []
    deadline_s = time.monotonic() + _ANSWER_WITHIN_S
    with closing(KafkaSource(bootstrap, config, "", partitions=[partition])) as source:
        source.seek(source.oldest_positions())
        ends = source.end_positions()
        while not found and source.position()[partition] < ends[partition] and time.monotonic() < deadline_s:
            found += [record for record in source.poll(0.2) if record.key is not None]
    return found


def stages_explaining(samples: Mapping[int, Sequence[Record]], saved: int, count: int) -> list[Stage]:
    """Return the stages that explain where the oldest records lie.

    Args:
        samples: Partition → its oldest records, in order, of each partition from the first that is not saved on.
        saved: Partitions in the run's newest version, 0 without one.
        count: Partitions there are now.
    """
    hashes = {p: [key_hash(record.key or b"") for record in records] for p, records in samples.items()}
    counts = [*([saved] if saved else []), *counts_explaining(hashes, saved, count), count]
    begins = [FOREVER_MS] * (len(counts) + 2)
    for at, (before, now) in enumerate(pairwise(counts), start=1):
        appended = [record.appended_ms for p in range(before, now) for record in samples[p]]
        begins[at] = min(appended, default=FOREVER_MS) - _CLOCKS_DIFFER_MS
    return [Stage(num_partitions, begins[at + 2]) for at, num_partitions in enumerate(counts)]


def counts_explaining(samples: Mapping[int, Sequence[int]], first: int, count: int) -> list[int]:
    """Return the numbers of partitions, below the present one, that explain where the oldest keys lie, ascending.

    Args:
        samples: Partition → hashes of its oldest keys, in order.
        first: The first partition to explain.
        count: Partitions there are now.

    Returns:
        Nothing where the present number explains all, or no numbers do: then another partitioner placed them.
    """
    old = {partition: _until_growth(samples[partition], partition, count) for partition in range(first, count)}

    def explained(first: int, end: int) -> bool:
        return all(home_partition(hash_of_key, end) == p for p in range(first, end) for hash_of_key in old[p])

    counts: list[int] = []
    while not counts or counts[-1] < count:
        start = counts[-1] if counts else first
        end = next((end for end in range(count, start, -1) if explained(start, end)), None)
        if end is None:
            return []
        counts.append(end)
    proofs = [set(old[p] or samples[p]) for p in range(max(first, 1 if counts[0] == 1 else 0), count)]
    return counts[:-1] if sum(map(len, proofs)) >= _LEAST_USERS else []


def _until_growth(hashes: Sequence[int], partition: int, count: int) -> Sequence[int]:
    """Return the oldest keys up to the last that Kafka's partitioner would not put here among `count` partitions."""
    elsewhere = [at for at, hash_of_key in enumerate(hashes) if home_partition(hash_of_key, count) != partition]
    return hashes[: elsewhere[-1] + 1] if elsewhere else []
