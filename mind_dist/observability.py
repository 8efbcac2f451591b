"""Logs and metrics: how a line looks, and every metric by name.

The package only emits: `logging.getLogger(__name__)` and a `Metrics` handed in. Processes decide where it goes:
jobs call `configure_logging`, the Serve shell passes metrics to Ray, which exports them to Prometheus.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, Protocol

from mind_dist.errors import without_secrets

_LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        kind: A `counter` only rises, a `gauge` is a level, a `histogram` counts values by bucket.
        description: What it tells, with its unit.
        boundaries: Upper bounds of a histogram's buckets.
        tags: Names of the tags a value may carry.
    """

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    boundaries: tuple[float, ...] = ()
    tags: tuple[str, ...] = ()


_BY_VERSION = ("model_version",)

METRICS: dict[str, Metric] = {
    "mind_dist_events_applied": Metric("counter", "Records that changed a user's state."),
    "mind_dist_events_forwarded": Metric(
        "counter", "Records sent on to where their users' states are, since partitions were added."
    ),
    "mind_dist_events_ignored": Metric("counter", "Events of types that are not kept."),
    "mind_dist_events_skipped": Metric("counter", "Records that their user's state had already."),
    "mind_dist_events_unchanged": Metric(
        "counter", "Events that changed nothing: duplicates, or older than the history."
    ),
    "mind_dist_poison_records": Metric("counter", "Records sent to the dead-letter topic."),
    "mind_dist_tombstones": Metric("counter", "Users forgotten."),
    "mind_dist_users_not_encoded": Metric(
        "counter", "Users of whom a model version can make no row.", tags=_BY_VERSION
    ),
    "mind_dist_view_lag_states": Metric(
        "gauge", "States that a version's rows are behind, of the partitions of one updater.", tags=_BY_VERSION
    ),
    "mind_dist_view_repairs": Metric(
        "counter", "Rows found to differ from their state, and written anew.", tags=_BY_VERSION
    ),
    "mind_dist_published_versions": Metric("counter", "Versions that readers were put on by `jobs.publish --every-s`."),
    "mind_dist_publish_failures": Metric(
        "counter", "Turns of `jobs.publish --every-s` that failed; readers stay where they are.", tags=("reason",)
    ),
    "mind_dist_active_watermark_age_seconds": Metric(
        "gauge", "How far behind now the newest event is that the active version was trained on."
    ),
    "mind_dist_states_written": Metric("counter", "User states written to the log of states."),
    "mind_dist_user_upserts": Metric("counter", "User rows written.", tags=_BY_VERSION),
    "mind_dist_lag_records": Metric("gauge", "Records of an owned partition not yet applied.", tags=("partition",)),
    "mind_dist_problem": Metric(
        "gauge",
        "1 while a problem of this name is there (names: docs/operations.md), 0 when it is over.",
        tags=("problem", "source"),
    ),
    "mind_dist_lag_report_failures": Metric(
        "counter", "Times the lag could not be asked for; its gauge keeps the last value."
    ),
    "mind_dist_freshness_seconds": Metric(
        "histogram", "From an event's append to its user's row.", _LATENCY_S, tags=_BY_VERSION
    ),
    "mind_dist_update_seconds": Metric("histogram", "One micro-batch of events, from poll to states.", _LATENCY_S),
    "mind_dist_retrieve_seconds": Metric("histogram", "One retrieve request.", _LATENCY_S),
    "mind_dist_ann_recall": Metric(
        "histogram",
        "Share of the exactly best items that the index finds, of some requests, searched once more in the background.",
        _SHARES,
        tags=_BY_VERSION,
    ),
    "mind_dist_retrieve_unknown_items": Metric("counter", "Behaviors in requests whose item is not known."),
}
"""Every metric the package emits."""


class Metrics(Protocol):
    """Where metrics go. Names are those of `METRICS`; tags are few and of few values."""

    def add(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Raise a counter."""
        ...

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Put a value into a histogram."""
        ...


class InMemoryMetrics:
    """Metrics kept in this process: sums, last levels, and every observed value."""

    def __init__(self) -> None:
        self.values: dict[str, float] = defaultdict(float)
        self.observed: dict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0, **_tags: str) -> None:
        """Raise a counter; tags are summed over."""
        assert METRICS[name].kind == "counter", name
        with self._lock:
            self.values[name] += value

    def set(self, name: str, value: float, **_tags: str) -> None:
        """Set a gauge; the last tags win."""
        assert METRICS[name].kind == "gauge", name
        with self._lock:
            self.values[name] = value

    def observe(self, name: str, value: float, **_tags: str) -> None:
        """Keep a value."""
        assert METRICS[name].kind == "histogram", name
        with self._lock:
            self.observed[name].append(value)


class _KeyValueFormatter(logging.Formatter):
    """`time level logger message key=value …`, the values from `extra={"fields": {...}}`; secrets in URIs are masked."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = getattr(record, "fields", {})
        return without_secrets(" ".join([line, *(f"{key}={value}" for key, value in fields.items())]))


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log lines to standard error, one an event; for jobs, never for the library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_KeyValueFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("mind_dist")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
