"""Transactions that a killed or frozen owner has left under way, ended by whoever takes its partitions over.

A broker ends them by itself only when `transaction_timeout_s` has passed and it looks, every ten seconds
(`transaction.abort.timed.out.transaction.cleanup.interval.ms`). Until then nobody learns where the group has come to, nor
reads on in the log of states. Which there are a broker tells (KIP-664); a second producer of the same id ends one, and shuts
out the first (KIP-98).
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from kafka import KafkaProducer

from mind_dist.config import KafkaConfig
from mind_dist.errors import ServiceUnavailable
from mind_dist.log.kafka_broker import admin_client, connect, translated

logger = logging.getLogger(__name__)

_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.5
"""A transaction of positions alone, of which nobody can tell whose they are, is unfinished when it is still there then."""


def new_id(group: str) -> str:
    """Return an id for a producer that stores positions of a group, by which others find it."""
    return f"{group}-{uuid.uuid4().hex}"


def end_unfinished(bootstrap: str, config: KafkaConfig, own_id: str, partitions: Collection[int]) -> None:
    """End what other producers of the updaters' group have under way in partitions of the log of states.

    One that is at work is shut out, too, where it writes to one of these: they are not its partitions any more.
    Brokers that do not tell, as Tansu, and those that may not tell us, end it in their own time.

    Args:
        bootstrap: Addresses of brokers.
        config: Topics and the group.
        own_id: Who asks.
        partitions: Which have been taken over.
    """
    wanted = {(config.states_topic, partition) for partition in partitions}
    began_s = time.monotonic()
    try:
        with admin_client(bootstrap, _WITHIN_S) as admin:
            found = _unfinished(admin, config.updaters_group, own_id, wanted)
        for each in found:
            _end(bootstrap, each)
    except ServiceUnavailable as error:
        logger.info("what predecessors have under way ends in the broker's time", extra={"fields": {"error": error}})
        return
    if found:
        fields = {"partitions": sorted(partitions), "ended": found, "took_s": round(time.monotonic() - began_s, 2)}
        logger.info("ended what predecessors had left under way", extra={"fields": fields})


def _unfinished(admin: Any, group: str, own_id: str, wanted: set[tuple[str, int]]) -> list[str]:
    """Return whose transactions hold up some partitions, or, for a moment now, nothing but positions."""
    told = _ongoing(admin, group, own_id)
    found = [each for each, (_, written) in told.items() if written & wanted]
    silent = {each: began_ms for each, (began_ms, written) in told.items() if not written}
    if silent:
        time.sleep(_LOOK_AGAIN_S)
        still = _ongoing(admin, group, own_id)
        found += [each for each, began_ms in silent.items() if each in still and still[each][0] == began_ms]
    return found


def _ongoing(admin: Any, group: str, own_id: str) -> dict[str, tuple[int, set[tuple[str, int]]]]:
    """Return by producer's id when its transaction began, and which partitions of topics but the positions' it writes to."""
    ours = re.compile(f"{re.escape(group)}-[0-9a-f]{{32}}")
    listed = [each for of_broker in admin.list_transactions(state_filters=["Ongoing"]).values() for each in of_broker]
    ids = [each.transactional_id for each in listed if ours.fullmatch(each.transactional_id)]
    described = admin.describe_transactions([each for each in ids if each != own_id])
    return {
        name: (
            told.transaction_start_time_ms,
            {(each.topic, each.partition) for each in told.topic_partitions if not each.topic.startswith("__")},
        )
        for name, told in described.items()
        if told.state == "Ongoing"
    }


def _end(bootstrap: str, transactional_id: str) -> None:
    """Begin anew as a producer: the broker aborts what the one before has under way, and refuses it from now on."""
    timeout_ms = int(_WITHIN_S * 1000)
    producer = connect(
        KafkaProducer,
        bootstrap,
        _WITHIN_S,
        transactional_id=transactional_id,
        max_block_ms=timeout_ms,
        request_timeout_ms=timeout_ms,
        delivery_timeout_ms=timeout_ms + 5,
    )
    try:
        with translated(bootstrap):
            producer.init_transactions()
    finally:
        producer.close(timeout=0)
