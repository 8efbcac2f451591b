"""Settings of the event log."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pydantic import with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.deployment import prefixed


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
