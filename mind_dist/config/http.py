"""Settings of HTTP: what a request may ask for, and how many at once."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config

from mind_dist.config.checks import STRICT, check

MOST_EVENTS, MOST_BEHAVIORS, MOST_REQUESTS = 1_000, 10_000, 256
"""Events of one request, behaviors of a request for candidates, and such requests in one, that no setting goes beyond."""


@with_config(STRICT)
@dataclass(frozen=True)
class HttpConfig:
    """Limits of each replica that answers HTTP.

    Each kind of work has threads and a queue of its own, so that one whose service is away never slows the others.
    """

    max_body_bytes: int = 2 * 1024 * 1024
    """Largest body of a request; above it the answer is 413."""
    max_events: int = MOST_EVENTS
    """Most events of one request."""
    max_batch: int = 100
    """Most requests for candidates in one."""
    audit_share: float = 0.001
    """Share of the requests for candidates whose interests are searched once more, by the index and exactly, in the
    background: `mind_dist_ann_recall`."""
    requests_per_s: float = 0.0
    """Requests a second under /v1 that a replica takes on average, a second's worth of them at once; above it the answer
    is 429. Several in one count each. 0 for any number."""
    events_per_s: float = 0.0
    """Events a second that a replica takes, likewise."""
    retrieve_threads: int = 16
    """Requests for candidates and interests that are worked on at once."""
    events_threads: int = 16
    """Requests with events that wait for the log at once."""
    max_waiting: int = 64
    """Requests of each kind that wait for a thread; above it the answer is 503 at once."""
    events_timeout_s: float = 5.0
    """How long a request with events waits for the log, and then gets 503."""
    idempotency_s: float = 600.0
    """How long a replica remembers an `Idempotency-Key`."""
    idempotency_keys: int = 100_000
    """Most keys it remembers, about 400 bytes each; the oldest go first."""

    def __post_init__(self) -> None:
        check(self.max_body_bytes >= 1024, "max_body_bytes", "at least 1024")  # noqa: PLR2004 - less holds no request
        check(1 <= self.max_events <= MOST_EVENTS, "max_events", f"between 1 and {MOST_EVENTS}")
        check(1 <= self.max_batch <= MOST_REQUESTS, "max_batch", f"between 1 and {MOST_REQUESTS}")
        check(0 <= self.audit_share <= 1, "audit_share", "between 0 and 1")
        for name in ("requests_per_s", "events_per_s"):
            rate = getattr(self, name)
            check(rate == 0 or 1 <= rate < float("inf"), name, "0, or at least 1")
        for name in ("retrieve_threads", "events_threads"):
            check(1 <= getattr(self, name) <= 256, name, "between 1 and 256")  # noqa: PLR2004 - threads of one process
        check(self.max_waiting >= 0, "max_waiting", "0 or more")
        check(self.events_timeout_s > 0, "events_timeout_s", "above 0")
        check(self.idempotency_s > 0, "idempotency_s", "above 0")
        check(self.idempotency_keys >= 1, "idempotency_keys", "at least 1")
