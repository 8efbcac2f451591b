"""Settings of the event log, the vector store, publishing and serving, and where the services are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr, with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.deployment import ALLOWED, is_deployment, prefixed
from mind_dist.config.http import HttpConfig
from mind_dist.errors import ConfigError


@with_config(STRICT)
@dataclass(frozen=True)
class KafkaConfig:
    """Topics and limits of the event log; its address comes from the environment."""

    topic: str = "behavior-events"
    """Topic of the behavior events."""
    dead_letter_topic: str = "behavior-events-dead-letters"
    """Topic of the records that cannot be decoded."""
    states_topic: str = "user-states"
    """Topic of the users' states, compacted, with as many partitions as the events have."""
    max_poison_fraction: float = 0.1
    """Stop when more than this share of a window's records is poison."""
    poison_window: int = 1000
    """Records in that window; no judgement before it is full."""
    max_clock_skew_s: float = 3600.0
    """An event whose time lies further ahead of the time at which the log took it is poison: it would stay its user's
    newest behavior, and what the user does until then would count as too old."""
    max_poll_records: int = 500
    """Most records of one poll, and so of one micro-batch."""
    connect_timeout_s: float = 30.0
    """How long to try to reach the broker."""
    metadata_max_age_s: float = 30.0
    """How old a client's knowledge of the topic may get: partitions that are added are noticed so late, in seconds."""
    session_timeout_s: float = 8.0
    """A consumer that died loses its partitions after so long."""
    max_poll_interval_s: float = 90.0
    """A consumer that polls less often loses its partitions."""
    transaction_timeout_s: float = 10.0
    """A transaction of a process that died is ended by the broker after so long; until then nobody reads past it."""
    group_prefix: str = ""
    """Beginning of the names of consumer groups; jobs set it to the deployment's name and `__`."""

    def __post_init__(self) -> None:
        check(0 <= self.max_poison_fraction <= 1, "max_poison_fraction", "between 0 and 1")
        check(self.poison_window >= 1, "poison_window", "at least 1")
        check(self.max_clock_skew_s >= 0, "max_clock_skew_s", "0 or more")
        check(self.max_poll_records >= 1, "max_poll_records", "at least 1")
        check(self.connect_timeout_s > 0, "connect_timeout_s", "above 0")
        check(self.metadata_max_age_s > 0, "metadata_max_age_s", "above 0")
        check(self.session_timeout_s >= 6, "session_timeout_s", "at least 6, the brokers' own limit")  # noqa: PLR2004
        check(self.transaction_timeout_s >= 1, "transaction_timeout_s", "at least 1")
        check(self.max_poll_interval_s >= 1, "max_poll_interval_s", "at least 1")

    @property
    def max_clock_skew_ms(self) -> int:
        """`max_clock_skew_s` in milliseconds."""
        return int(self.max_clock_skew_s * 1000)

    @property
    def updaters_group(self) -> str:
        """The consumer group that keeps the users' states."""
        return f"{self.group_prefix}mind-dist-states"

    def view_group(self, model_version: str, published_ms: int) -> str:
        """Return the consumer group that says how far a version's rows are behind the states.

        Rows that are dropped and made anew begin anew: when they were made is in the name.
        """
        return f"{self.group_prefix}mind-dist-view-{model_version}-{published_ms}"

    def of_deployment(self, deployment: str) -> KafkaConfig:
        """Return the same with the consumer groups of a deployment, and its topics where they are the default ones.

        Without a name all stays as it is.
        """
        named: dict[str, Any] = {
            each.name: prefixed(deployment, str(each.default))
            for each in dataclasses.fields(self)
            if each.name in {"topic", "states_topic", "dead_letter_topic"} and getattr(self, each.name) == each.default
        }
        return dataclasses.replace(self, group_prefix=prefixed(deployment, self.group_prefix), **named)


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
    fill_users_per_s: float = 0.0
    """Most users a second of a version that is staged, so that the active one's are not held up; 0 for no bound."""
    max_lag: int = 1_000_000
    """States that the active version's rows may be behind before no more events are taken in."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "at least 1")
        for name in ("store_s", "look_s", "settle_s", "audit_s", "fill_users_per_s"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(self.audit_rows >= 1, "audit_rows", "at least 1")
        check(self.max_lag >= 1, "max_lag", "at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class PublishConfig:
    """What a version must show before readers are switched to it, and what is kept behind it."""

    ann_sample: int = 200
    """Users whose interests are searched by index and exactly, to compare."""
    ann_limit: int = 50
    """Items asked for in that comparison."""
    min_ann_recall: float = 0.95
    """Least share of the exact items that the index must find."""
    min_recall: float = 0.0
    """Least recall@50 the version must have been evaluated with; 0 asks for none."""
    max_recall_drop: float = 0.1
    """Largest share of the active version's recall@50 that may be lost."""
    allow_breaking: bool = False
    """Also publish a version of another width, similarity, event types or columns than the active one: readers' queries
    or filters may fail then. Ids of another type are refused all the same."""
    wait_for_users: bool = True
    """Switch readers only when the version has the rows of all users; off where no updaters run now."""
    catch_up_s: float = 3600.0
    """How long updaters may take to make the new version's rows of all users."""
    keep: int = 2
    """Versions kept behind the active one, for rollback."""
    batch_size: int = 1000
    """Items written at a time."""
    fill_threads: int = 4
    """Requests with items that are under way at a time."""
    lease_s: float = 20.0
    """A publish that is not heard of for so long is dead, and another one may begin."""

    def __post_init__(self) -> None:
        check(self.ann_sample >= 1, "ann_sample", "at least 1")
        check(self.fill_threads >= 1, "fill_threads", "at least 1")
        check(self.lease_s > 0, "lease_s", "above 0")
        check(self.ann_limit >= 1, "ann_limit", "at least 1")
        check(0 <= self.min_ann_recall <= 1, "min_ann_recall", "between 0 and 1")
        check(0 <= self.min_recall <= 1, "min_recall", "between 0 and 1")
        check(0 <= self.max_recall_drop <= 1, "max_recall_drop", "between 0 and 1")
        check(self.catch_up_s >= 0, "catch_up_s", "0 or more")
        check(self.keep >= 0, "keep", "0 or more")
        check(self.batch_size >= 1, "batch_size", "at least 1")


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


_SECRETS = ("milvus_token", "http_token")


@with_config(STRICT)
@dataclass(frozen=True)
class Addresses:
    """Where the services are; read from the environment by `from_environment` and nowhere else.

    Other settings of the Kafka client, `MIND_DIST_KAFKA_…`, are read by `log.kafka_settings` where it connects.
    """

    kafka: str = "127.0.0.1:9092"
    """`MIND_DIST_KAFKA`: bootstrap servers, host:port separated by commas."""
    milvus: str = "http://127.0.0.1:19530"
    """`MIND_DIST_MILVUS`: URI of the Milvus server."""
    milvus_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """`MIND_DIST_MILVUS_TOKEN`: user:password, or empty."""
    http_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """`MIND_DIST_HTTP_TOKEN`: what requests to us under /v1 must carry as bearer token; empty for nothing, which only a
    service at a loopback address may have."""
    deployment: str = ""
    """`MIND_DIST_DEPLOYMENT`: name of this deployment where several share a Milvus or a Kafka; empty for none. Its
    collections, aliases and consumer groups begin with it. It never changes, or what it has is found no more."""

    def __post_init__(self) -> None:
        check(is_deployment(self.deployment), "deployment", ALLOWED)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Addresses:
        """Read the addresses.

        Raises:
            ConfigError: The name of the deployment is not allowed.
        """
        names = {f.name: f"MIND_DIST_{f.name.upper()}" for f in dataclasses.fields(cls)}
        if not is_deployment(name := environment.get(names["deployment"], "")):
            raise ConfigError(names["deployment"], f"{name!r} must be {ALLOWED}")
        given = {name: environment[variable] for name, variable in names.items() if variable in environment}
        secrets = {name: SecretStr(given.pop(name, "")) for name in _SECRETS}
        return cls(**given, **secrets)  # type: ignore[arg-type]

    def shareable(self) -> dict[str, str]:
        """Return what may be sent to other processes, which Ray keeps and shows: of secrets, only which there are."""
        there = [name for name in _SECRETS if getattr(self, name).get_secret_value()]
        open_values = {name: value for name, value in dataclasses.asdict(self).items() if name not in _SECRETS}
        return {**open_values, "secrets": " ".join(there)}

    @classmethod
    def shared(cls, values: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Addresses:
        """Return the addresses that another process sent as `shareable`, with this one's own secrets.

        Raises:
            ConfigError: The other one has a secret that is missing here: without it, everybody might be let in.
        """
        own = cls.from_environment(environment)
        for name in values["secrets"].split():
            if not getattr(own, name).get_secret_value():
                problem = "is set where this was started, and not here: secrets do not travel, set it on every node"
                raise ConfigError(f"MIND_DIST_{name.upper()}", problem)
        open_values = {name: value for name, value in values.items() if name != "secrets"}
        secrets = {name: getattr(own, name) for name in _SECRETS}
        return cls(**open_values, **secrets)  # type: ignore[arg-type]
