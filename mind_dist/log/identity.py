"""Which log a position belongs to: a topic's name says it no more once the topic was made anew, or the cluster replaced."""

from __future__ import annotations

from dataclasses import dataclass

from mind_dist.errors import AnotherLog


@dataclass(frozen=True)
class LogIdentity:
    """A topic of a cluster, as the broker tells them from all others.

    Attributes:
        cluster_id: Id of the cluster; every Tansu has the same.
        topic: Name of the topic.
        topic_id: Id that the topic got when it was made; empty where the broker gives none (before Kafka 2.8).
    """

    cluster_id: str
    topic: str
    topic_id: str

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"topic {self.topic!r} (id {self.topic_id or 'unknown'}) of cluster {self.cluster_id}"

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
