"""Where views keep how far they are: the port, and its implementations.

A view is a reader of the log of states: what it has stored says that every state below is in the view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

from mind_dist.config import KafkaConfig
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import KafkaSource
from mind_dist.log.memory_log import InMemoryLog
from mind_dist.records import Positions


class ViewPositions(Protocol):
    """How far one view is."""

    def stored(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """Return the stored positions of some partitions; those never stored are absent.

        Raises:
            ServiceUnavailable: The log did not answer within the implementation's bound.
        """
        ...

    def notes(self, partitions: Iterable[int]) -> Mapping[int, str]:
        """Return what is noted beside the stored positions of some partitions; empty where nothing is."""
        ...

    def store(self, positions: Positions, notes: Mapping[int, str]) -> None:
        """Store positions, and what is noted beside them.

        Raises:
            ServiceUnavailable: The log did not answer within the implementation's bound.
        """
        ...

    def close(self) -> None:
        """Leave the log."""
        ...


class InMemoryViewPositions:
    """`ViewPositions` beside a log in this process."""

    def __init__(self, log: InMemoryLog, model_version: str) -> None:
        self._log = log
        self._group = model_version

    def stored(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """Return the stored positions."""
        return self._log.stored(self._group, partitions)

    def notes(self, partitions: Iterable[int]) -> Mapping[int, str]:
        """Return what is noted beside them."""
        return self._log.notes(self._group, partitions)

    def store(self, positions: Positions, notes: Mapping[int, str]) -> None:
        """Store positions."""
        self._log.store(self._group, positions, notes)

    def close(self) -> None:
        """Do nothing: the log lives on."""


class KafkaViewPositions:
    """`ViewPositions` in a consumer group without members: owners store those of their own partitions.

    Args:
        bootstrap: Addresses of brokers.
        config: Topics, and how groups are named.
        info: Whose view.
        num_partitions: Partitions of the log of states.
    """

    def __init__(self, bootstrap: str, config: KafkaConfig, info: VersionInfo, num_partitions: int) -> None:
        of_states = dataclasses.replace(config, topic=config.states_topic)
        group = config.view_group(info.model_version, info.published_ms)
        self._source = KafkaSource(bootstrap, of_states, group, partitions=range(num_partitions))

    def stored(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """Return the stored positions."""
        found = self._source.committed()
        return {partition: found[partition] for partition in partitions if partition in found}

    def notes(self, partitions: Iterable[int]) -> Mapping[int, str]:
        """Return what is noted beside them."""
        found = self._source.notes()
        return {partition: found[partition] for partition in partitions}

    def store(self, positions: Positions, notes: Mapping[int, str]) -> None:
        """Store positions."""
        self._source.commit(positions, notes)

    def close(self) -> None:
        """Leave the log."""
        self._source.close()
