"""Whether a version's updaters as a group get on, asked by one of them that owns no partition."""

from __future__ import annotations

from mind_dist.config import ServingConfig
from mind_dist.errors import MindDistError
from mind_dist.log.kafka import num_partitions
from mind_dist.log.kafka_groups import end_positions, lag
from mind_dist.records import Positions


class GroupProgress:
    """Tells an updater without partitions whether that is as it should be.

    Args:
        bootstrap: Addresses of brokers.
        config: The deployment's settings.
    """

    def __init__(self, bootstrap: str, config: ServingConfig) -> None:
        self._bootstrap = bootstrap
        self._kafka = config.kafka
        self._num_updaters = config.most_updaters
        self._group = config.kafka.updaters_group
        self._seen: tuple[Positions, int] | None = None  # the ends at the last call, and the lag behind them

    def why_unowned(self) -> str:
        """Return what is wrong with owning no partition; empty where others own them all and get on.

        With no more updaters than partitions each has one, or the group is stuck. With more, some have none; then the
        group is stuck when from one call to the next it takes nothing of what was there.
        """
        try:
            count = num_partitions(self._bootstrap, self._kafka.topic, timeout_s=self._kafka.connect_timeout_s)
            if self._num_updaters <= count:
                return self._stuck(f"{count} partitions for {self._num_updaters} updaters, and this one has none")
            return self._not_getting_on()
        except MindDistError as error:
            return f"no partition is ours, and it cannot be told why: {error}"

    def _not_getting_on(self) -> str:
        ends, before = self._seen or ({}, 0)
        waiting = lag(self._bootstrap, self._kafka, self._group, ends)
        now_ends = end_positions(self._bootstrap, self._kafka)
        self._seen = now_ends, lag(self._bootstrap, self._kafka, self._group, now_ends)
        return self._stuck(f"nobody applies its {waiting:,} oldest records") if waiting and waiting >= before else ""

    def _stuck(self, what: str) -> str:
        look = f"kafka-consumer-groups.sh --bootstrap-server {self._bootstrap} --describe --group {self._group}"
        return (
            f"consumer group {self._group} is stuck: {what}; look at its members with {look}, and restart the broker "
            "where members that are gone still have partitions"
        )
