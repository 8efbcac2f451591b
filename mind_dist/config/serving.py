"""Settings of serving: what is kept of users, how rows follow, the vector store, replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.http import HttpConfig
from mind_dist.config.kafka import KafkaConfig

_MOST_HISTORY = 10_000


@with_config(STRICT)
@dataclass(frozen=True)
class StatesConfig:
    """What is kept of users, whatever a model reads of it."""

    max_history: int = 200
    """Newest behaviors kept of a user."""
    event_types: tuple[str, ...] = ()
    """Types of the events that are kept; empty for all."""
    features: tuple[str, ...] = ()
    """Fields of an event's context that are kept with its behavior, beside its type; models can read those alone."""
    directory: str = ""
    """Folder on each machine for the states of its partitions; empty for one in the system's folder for temporary files.
    What is there can go at any time: it is read again from the log."""

    def __post_init__(self) -> None:
        # a state must fit into a record, whatever its items are
        check(1 <= self.max_history <= _MOST_HISTORY, "max_history", f"between 1 and {_MOST_HISTORY:,}")
        check("event_type" not in self.features, "features", "fields of the context: event_type is always kept")

    @property
    def kept_features(self) -> tuple[str, ...]:
        """Names of all that is kept of a behavior beside item and time."""
        return ("event_type", *self.features)


@with_config(STRICT)
@dataclass(frozen=True)
class ViewsConfig:
    """How the rows of model versions are kept behind the users' states."""

    batch_size: int = 256
    """Users encoded and written at a time."""
    store_s: float = 0.5
    """How often a view stores how far it is, in seconds."""
    look_s: float = 5.0
    """How often it looks whether somebody has put it back, in seconds."""
    settle_s: float = 60.0
    """Longest time that a call to the index of an owner before may still be under way: so long after a partition is taken
    over, what changed since is written once more."""
    audit_s: float = 1.0
    """How often some rows are compared with their states, in seconds; 0 for never."""
    audit_rows: int = 20
    """How many rows at a time."""
    audit_after_s: float = 5.0
    """Rows are compared when they were written at least so many seconds ago: of younger ones the index may still show what was
    there before, and a strong read, which would tell, takes up to 400 ms."""
    fill_users_per_s: float = 0.0
    """Most users a second of a version that is staged, so that the active one's are not held up; 0 for no bound."""
    max_lag: int = 1_000_000
    """States that the active version's rows may be behind before no more events are taken in."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "at least 1")
        for name in ("store_s", "look_s", "settle_s", "audit_s", "audit_after_s", "fill_users_per_s"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(self.audit_rows >= 1, "audit_rows", "at least 1")
        check(self.max_lag >= 1, "max_lag", "at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class MilvusConfig:
    """How the Milvus adapter behaves; its address comes from the environment."""

    timeout_s: float = 10.0
    """Bound of one call: without one a frozen server blocks for ever."""
    retry_s: float = 30.0
    """How long a call that failed for a passing reason is tried again."""
    index: Literal["HNSW", "FLAT"] = "HNSW"
    """Index of the item vectors; FLAT is exact, slower for many items, and what Milvus Lite always gets."""
    flat_below: int = 20_000
    """Versions of fewer items get FLAT: it is about as fast there, and a small HNSW finds less."""
    hnsw_m: int = 16
    """Links per node."""
    hnsw_ef_construction: int = 200
    """Candidates looked at while building."""
    search_ef: int = 256
    """Candidates looked at while searching; raised to the limit where that is larger, and under a filter."""
    settle_s: float = 1800.0
    """How long a publish waits for the index of its items to be built and loaded; 0 does not wait."""

    def __post_init__(self) -> None:
        check(self.timeout_s > 0, "timeout_s", "above 0")
        check(self.retry_s >= 0, "retry_s", "0 or more")
        check(self.flat_below >= 0, "flat_below", "0 or more")
        check(self.settle_s >= 0, "settle_s", "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class ScalingConfig:
    """How the number of updaters follows the events that wait; never above the partitions of the users' states."""

    max_updaters: int = 0
    """Most replicas of the updater; 0 for as many as `num_updaters`, always."""
    lag_per_updater: int = 10_000
    """Records that may wait for each updater: when more do, there are to be more updaters."""
    up_after_s: float = 30.0
    """For how long there must have been too few."""
    down_after_s: float = 600.0
    """For how long there must have been too many: each change of the number shares out partitions anew."""

    def __post_init__(self) -> None:
        check(self.max_updaters >= 0, "max_updaters", "0 or more")
        check(self.lag_per_updater >= 1, "lag_per_updater", "at least 1")
        for name in ("up_after_s", "down_after_s"):
            check(getattr(self, name) >= 0, name, "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class ServingConfig:
    """The replicas that keep user vectors fresh and those that answer requests."""

    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """The event log."""
    milvus: MilvusConfig = field(default_factory=MilvusConfig)
    """The vector store."""
    http: HttpConfig = field(default_factory=HttpConfig)
    """Limits of requests."""
    states: StatesConfig = field(default_factory=StatesConfig)
    """What is kept of users."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """How rows follow what is kept."""
    host: str = "127.0.0.1"
    """Where HTTP listens; 0.0.0.0 for all interfaces, which needs a token (`MIND_DIST_HTTP_TOKEN`)."""
    port: int = 8000
    """Port of HTTP."""
    num_updaters: int = 1
    """Replicas of the updater; the topic's partitions are spread over them. With `scaling`, the fewest."""
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    """How the number of updaters follows the events that wait."""
    num_recommenders: int = 1
    """Replicas that answer requests."""
    cpus_per_replica: float = 0.5
    """CPUs that Ray sets aside for each replica."""
    version_poll_s: float = 1.0
    """How often to look for a new active or staged model version."""
    poll_timeout_s: float = 0.1
    """How long an updater waits for events before it looks round."""
    max_backoff_s: float = 5.0
    """Longest pause before a batch that failed is tried again."""
    unhealthy_after_s: float = 60.0
    """An updater that has failed for so long is unhealthy and replaced."""
    degraded_after_s: float = 60.0
    """An updater that for so long owns no partition, applies nothing of what it polls, or falls behind says so."""
    stuck_after_s: float = 90.0
    """An updater that has spent so long in one step is stuck and replaced."""
    max_limit: int = 1000
    """Most candidates of one request."""
    category_column: str = ""
    """Item column that `diversity_weight` spreads candidates over; empty for none."""

    def __post_init__(self) -> None:
        check(0 <= self.port < 1 << 16, "port", "between 0 and 65535")
        for name in ("num_updaters", "num_recommenders", "max_limit"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("version_poll_s", "poll_timeout_s", "max_backoff_s"):
            check(getattr(self, name) > 0, name, "above 0")
        for name in ("unhealthy_after_s", "degraded_after_s", "stuck_after_s"):
            check(getattr(self, name) > 0, name, "above 0")
        check(self.cpus_per_replica >= 0, "cpus_per_replica", "0 or more")
        check(self.most_updaters >= self.num_updaters, "scaling.max_updaters", "0, or at least num_updaters")

    @property
    def most_updaters(self) -> int:
        """As many replicas of the updater as there may be."""
        return self.scaling.max_updaters or self.num_updaters
