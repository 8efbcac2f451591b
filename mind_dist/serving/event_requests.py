"""Events of HTTP requests → the log: checked, limited, and each request stored once for its idempotency key."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from mind_dist.config import HttpConfig
from mind_dist.dataset.times import FIRST_MS
from mind_dist.errors import InvalidRequest, PoisonEvent
from mind_dist.keys import check_text, id_key, user_id_key
from mind_dist.log.codec import check_time
from mind_dist.serving.bodies import EventBody
from mind_dist.serving.context_body import LONGEST_TEXT
from mind_dist.serving.event_sender import SentEvent
from mind_dist.serving.idempotency import IdempotencyKeys
from mind_dist.serving.rate import RateLimit
from mind_dist.serving.recommender import Recommender
from mind_dist.strict_json import to_json

T = TypeVar("T")

SendEvents = Callable[[Sequence[SentEvent], Sequence[tuple[str, bytes]]], None]
"""Stores events in the log, with headers of their records; raises `ServiceUnavailable` when it could not."""

KEY_HEADER = "idempotency-key"
"""Header of a request with events, and of their records."""


class EventRequests:
    """Takes the events of requests; safe to share between threads.

    Args:
        recommender: Knows what ids are.
        send_events: Where events go.
        limits: How many are taken, and how long keys are remembered.
        max_clock_skew_ms: How far an event's time may lie ahead of its arrival.
    """

    def __init__(
        self, recommender: Recommender, send_events: SendEvents, limits: HttpConfig, max_clock_skew_ms: int
    ) -> None:
        self._recommender = recommender
        self._send = send_events
        self._most = limits.max_events
        self._max_clock_skew_ms = max_clock_skew_ms
        self._rate = RateLimit(limits.events_per_s, "events")
        self._keys = IdempotencyKeys(limits.idempotency_s, limits.idempotency_keys)

    def take(self, events: Sequence[EventBody], key: str | None) -> None:
        """Return when the log has the events.

        Raises:
            InvalidRequest: They would be poison, are too many, or another request had the key.
            KeyInUse: A request with the key runs now.
            TooFast: More than the configured rate.
            ServiceUnavailable: They were not stored in time.
        """
        if len(events) > self._most:
            raise InvalidRequest(f"events: {len(events):,} of them, at most {self._most:,} (http.max_events)")
        now_ms = time.time_ns() // 1_000_000
        if key is None:
            self._store(events, now_ms, [])
            return
        with self._keys.request(key, _digest(events), now_ms) as known:
            if not known.is_done:
                self._store(events, known.first_ms, [(KEY_HEADER, key.encode())])

    def _store(self, events: Sequence[EventBody], now_ms: int, headers: Sequence[tuple[str, bytes]]) -> None:
        timed = [
            SentEvent(
                each.user_id,
                each.item_id,
                now_ms if each.timestamp_ms is None else each.timestamp_ms,
                each.event_type,
                each.context,
            )
            for each in events
        ]
        _check_events(timed, self._recommender, self._max_clock_skew_ms)
        self._rate.take(len(timed))
        self._send(timed, headers)


def _digest(events: Sequence[EventBody]) -> bytes:
    """Return a fingerprint of what a request says, however its JSON is written."""
    said = [event.model_dump(exclude_unset=True) for event in events]
    return hashlib.blake2b(to_json(said, sort_keys=True).encode(), digest_size=16).digest()


def _check_events(events: Sequence[SentEvent], recommender: Recommender, max_clock_skew_ms: int) -> None:
    """Refuse what would be poison in the log."""
    id_type, now_ms = recommender.id_type(), time.time_ns() // 1_000_000
    for at, event in enumerate(events):
        name = "user_id"
        try:
            user_id_key(_short(event.user_id), id_type)
            name = "item_id"
            id_key(_short(event.item_id), id_type)
            name = "timestamp_ms"
            check_time(_milliseconds(event.timestamp_ms), now_ms, max_clock_skew_ms)
            name = "event_type"
            check_text(_short(event.event_type))
        except PoisonEvent as error:
            raise InvalidRequest(f"events.{at}.{name}: {error}") from error


def _milliseconds(moment: int) -> int:
    """Return a time that is one in milliseconds, not in seconds."""
    if moment < FIRST_MS:
        raise PoisonEvent(f"{moment} lies before 1995: it must be in milliseconds since the epoch")
    return moment


def _short(value: T) -> T:
    """Return an id or a type that fits into a record."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise PoisonEvent(f"must have at most {LONGEST_TEXT:,} characters, not {len(value):,}")
    return value
