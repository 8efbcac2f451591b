"""Whether a version's rows have come to where the log of states ended when this was first asked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from mind_dist.config import KafkaConfig
from mind_dist.errors import UsersBehind
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import KafkaSource
from mind_dist.log.kafka_groups import has_members
from mind_dist.log.kafka_topics import count_partitions
from mind_dist.records import Positions
from mind_dist.states.partition import EVENTS_LOG_KEY

_POLL_S = 0.2


class CaughtUp:
    """What publishing asks while the owners of the partitions fill a view.

    Args:
        bootstrap: Addresses of brokers.
        config: The deployment's topics and groups.
        patience_s: For how long no updater may be there: those of a service without a version begin with the first one.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        bootstrap: str,
        config: KafkaConfig,
        *,
        patience_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bootstrap = bootstrap
        self._config = config
        self._patience_s = patience_s
        self._clock = clock
        self._ends: Positions | None = None
        self._seen_at: float | None = None

    def __call__(self, info: VersionInfo) -> bool:
        """Tell whether nothing lies between where the view is and where the states ended.

        Raises:
            UsersBehind: There are users, and nobody is there to make their rows.
            ServiceUnavailable: The broker did not answer in time.
        """
        of_states = dataclasses.replace(self._config, topic=self._config.states_topic)
        count = count_partitions(self._bootstrap, of_states.topic, timeout_s=self._config.connect_timeout_s)
        if not count:
            return True  # no service has ever run: there are no users
        group = self._config.view_group(info.model_version, info.published_ms)
        source = KafkaSource(self._bootstrap, of_states, group, partitions=range(count))
        try:
            if self._ends is None:
                self._ends = source.written_positions()
            is_there = self._is_there(source, self._ends)
        finally:
            source.close()
        if not is_there:
            self._look_for_updaters(info)
        return is_there

    def _look_for_updaters(self, info: VersionInfo) -> None:
        now = self._clock()
        if self._seen_at is None or has_members(self._bootstrap, self._config, self._config.updaters_group):
            self._seen_at = now
        elif now - self._seen_at >= self._patience_s:
            raise UsersBehind(
                f"there are users, and no updater makes their rows for {info.model_version}: start python -m jobs.serve, "
                "or set publishing.wait_for_users to false to let the rows come later"
            )

    def _is_there(self, source: KafkaSource, ends: Positions) -> bool:
        """Read from where the view is: a position behind which no record lies is as good as the end."""
        while any(source.position()[partition] < end for partition, end in ends.items()):
            records = source.poll(_POLL_S)
            users = [record for record in records if record.key != EVENTS_LOG_KEY]
            if any(record.offset < ends[record.partition] for record in users):
                return False
        return True
