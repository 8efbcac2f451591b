"""Log positions from the active version's updaters to the new one's: the two ends of copying users."""

from __future__ import annotations

from mind_dist.config import KafkaConfig
from mind_dist.log.kafka_groups import end_positions, hand_over, lag
from mind_dist.records import Positions


class KafkaHandOver:
    """What `publish` asks of the event log in Kafka.

    Args:
        bootstrap: Addresses of brokers.
        config: The topic, and how consumer groups are named: as the deployment's updaters have it.
    """

    def __init__(self, bootstrap: str, config: KafkaConfig) -> None:
        self._bootstrap = bootstrap
        self._config = config
        self._followed = False
        self._ends: Positions | None = None

    def hand_over(self, old_version: str, new_version: str) -> None:
        """Let the new version's updaters start where the old one's have come to.

        Raises:
            ServiceUnavailable: The broker did not answer in time.
        """
        groups = self._config.group(old_version), self._config.group(new_version)
        self._followed = bool(hand_over(self._bootstrap, self._config, *groups))

    def caught_up(self, version: str) -> bool:
        """Tell whether a version's updaters have come to where the log ended when this was first asked.

        Nobody is waited for where no updater ever followed the old version.

        Raises:
            ServiceUnavailable: The broker did not answer in time.
        """
        if not self._followed:
            return True
        if self._ends is None:
            self._ends = end_positions(self._bootstrap, self._config)
        return lag(self._bootstrap, self._config, self._config.group(version), self._ends) == 0
