"""A long log with everything that goes wrong with logs, beside the oracle."""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from contextlib import closing

from kafka import KafkaProducer

from mind_dist.config import ViewsConfig
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.states.partition import EVENTS_LOG_KEY
from mind_dist.states.record import decode_state
from tests.drills.report import Run
from tests.drills.site import Site
from tests.drills.worlds import DrillWorld
from tests.state_worlds import FEATURES, KeyValue, mixed_log

USERS, PARTITIONS, COPIES, SHUFFLED_WITHIN_S = 2000, 4, 3, 60
ABORTED_ITEM = 999_999
"""What only records of transactions that were given up say."""
_CHUNK = 1000


def whole_log(site: Site) -> list[Run]:
    """Take in a log with everything thrice, shuffled within a minute, poison, late events, tombstones, wrong keys, far-future times and aborted transactions."""
    views = ViewsConfig(store_s=0.5, settle_s=3, audit_s=1)
    sizes = {"max_history": 50, "max_poll_records": 500}
    with DrillWorld(site, "whole-log", site.seed, partitions=PARTITIONS, views=views, **sizes) as drill:
        log = shuffled(mixed_log(site.records // COPIES, USERS, site.seed, poison_share=0.01), site.seed)
        aborted = send_with_aborted(drill, log)
        replicas = [drill.start(), drill.start()]
        started = time.monotonic()
        drill.wait_applied(600)
        applied_s = time.monotonic() - started
        run = drill.finish(within_s=120)
        figures = {
            "num_records": len(log),
            "num_aborted": aborted,
            "num_dead_letters": drill.num_dead_letters(),
            "records_per_s": round(len(log) / applied_s),
            "num_view_repairs": sum(replica.num_repairs() for replica in replicas),
        }
        shown = num_aborted_shown(drill)
        repeated = run.findings.repeated + shown
        return [Run(dataclasses.replace(run.findings, repeated=repeated), figures, run.problems)]


def shuffled(log: list[KeyValue], seed: int) -> list[KeyValue]:
    """Return each record `COPIES` times, each copy late by up to a minute; records are a second apart."""
    draw = random.Random(seed)
    arrivals = [(at + draw.uniform(0, SHUFFLED_WITHIN_S), each) for at, each in enumerate(log) for _ in range(COPIES)]
    return [each for _, each in sorted(arrivals, key=lambda arrival: arrival[0])]


def send_with_aborted(drill: DrillWorld, log: list[KeyValue]) -> int:
    """Write a log, and between its chunks transactions that are given up; returns how many records these had."""
    place, partitions, count = drill.world.place, drill.world.partitions, 0
    transactional = {"transactional_id": uuid.uuid4().hex, "retry_backoff_ms": 5}
    with closing(KafkaProducer(bootstrap_servers=place.kafka, **transactional)) as producer:
        producer.init_transactions()
        for start in range(0, len(log), _CHUNK):
            drill.world.send(log[start : start + _CHUNK])
            producer.begin_transaction()
            for user in range(count, count + 20):
                key = encode_key(user % USERS)
                event = encode_event(user % USERS, ABORTED_ITEM, 2_000_000_000_000)
                producer.send(place.topic, event, key, partition=home_partition(key_hash(key), partitions))
            producer.flush()
            producer.abort_transaction()
            count += 20
    return count


def num_aborted_shown(drill: DrillWorld) -> int:
    """Return how many states have seen what was given up: the oracle reads by the same client, and would see it, too."""
    states = [each for each in drill.world.states() if each.key != EVENTS_LOG_KEY and each.value]
    histories = (decode_state(int(each.key or b""), each.value or b"", FEATURES.behavior).history for each in states)
    return sum(ABORTED_ITEM in history.item_keys for history in histories)
