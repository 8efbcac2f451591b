"""Which log positions belong to: a topic that is made anew has other records at the same positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mind_dist.errors import AnotherLog


@dataclass(frozen=True)
class LogIdentity:
    """One topic of one cluster, and no later one of the same name.

    Attributes:
        cluster_id: The cluster's own id; empty where the broker tells none.
        topic: Name of the topic.
        topic_id: Id that the topic got when it was made; empty where the broker tells none.
    """

    cluster_id: str
    topic: str
    topic_id: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LogIdentity:
        """Build it back from `to_json`."""
        return cls(**values)

    def __str__(self) -> str:
        """Name it as messages do."""
        return f"topic {self.topic} (id {self.topic_id or 'unknown'}) of cluster {self.cluster_id or 'unknown'}"

    def is_same(self, other: LogIdentity) -> bool:
        """Tell whether positions of one are positions of the other.

        >>> LogIdentity("a", "events", "1").is_same(LogIdentity("a", "events", "2"))
        False
        """
        ids_differ = self.topic_id and other.topic_id and self.topic_id != other.topic_id
        return (self.cluster_id, self.topic) == (other.cluster_id, other.topic) and not ids_differ

    def check(self, saved: LogIdentity | None, *, owner: str, advice: str) -> None:
        """Refuse positions that were saved of another log than this one.

        Args:
            saved: Whose positions they are; None where that was not kept, and cannot be told.
            owner: What has them, for the message.
            advice: How to go on.

        Raises:
            AnotherLog: They are another log's.
        """
        if saved is not None and not self.is_same(saved):
            raise AnotherLog(owner, str(saved), str(self), advice)
