"""A saved version → where to go on, however many partitions the topic had when it was saved.

When partitions are added, Kafka's partitioner sends most users to other partitions from then on. A user's history
follows its events, whatever file it stands in, and is then in one partition alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from mind_dist.checkpoint import ModelVersion
from mind_dist.errors import ConfigError
from mind_dist.log.partitioner import home_partition
from mind_dist.records import Positions, UserHistory


def check_partitions(version: ModelVersion, topic: str, num_partitions: int) -> None:
    """Raise ConfigError where a topic has fewer partitions than a version was trained on."""
    saved = len(version.manifest.positions)
    if num_partitions < saved:
        raise ConfigError(
            "kafka.topic",
            f"{topic!r} has {num_partitions} partitions, the run's version {version.manifest.model_version} stands in "
            f"{saved}: the topic was made anew, its positions are others; choose another name for another run",
        )


def saved_positions(version: ModelVersion, num_partitions: int) -> Positions:
    """Return where to go on: among more partitions than before, with what was passed over until then."""
    saved = version.manifest.positions
    if num_partitions == len(saved):
        return saved
    parts = version.manifest.part_trained
    return {
        p: min([at, *(part.first for part in parts.get(p, ()) if part.count == len(saved))]) for p, at in saved.items()
    }


def saved_histories(
    version: ModelVersion, topic: str, partitions: Iterable[int], num_partitions: int, max_behaviors: int
) -> dict[int, list[UserHistory]]:
    """Return the histories of some of a topic's partitions; one file at a time is held beside them.

    Args:
        version: Where to go on.
        topic: The topic's name, for errors.
        partitions: Partitions wanted.
        num_partitions: Partitions the topic has now.
        max_behaviors: Longest history.

    Raises:
        ConfigError: The topic has fewer partitions than the version, or more and its records are not where Kafka's
            partitioner puts them, so that nobody knows where users have moved.
    """
    check_partitions(version, topic, num_partitions)
    if num_partitions == len(version.manifest.positions):
        return {partition: version.history(partition) for partition in partitions}
    return _moved(version, topic, frozenset(partitions), num_partitions, max_behaviors)


def _moved(
    version: ModelVersion, topic: str, partitions: frozenset[int], num_partitions: int, max_behaviors: int
) -> dict[int, list[UserHistory]]:
    found: dict[int, dict[int, UserHistory]] = defaultdict(dict)
    num_saved, num_users, num_at_home = len(version.manifest.positions), 0, 0
    for partition in sorted(version.manifest.positions):
        for history in version.history(partition):
            num_users += 1
            num_at_home += history.key_hash >= 0 and home_partition(history.key_hash, num_saved) == partition
            home = home_partition(history.key_hash, num_partitions)
            if home in partitions:
                _put(found[home], history, max_behaviors)
    if 2 * num_at_home < num_users:
        raise ConfigError(
            "kafka.topic",
            f"{topic!r} has grown from {num_saved} to {num_partitions} partitions, and the records of "
            f"{num_users - num_at_home} of {num_users} users are not where Kafka's partitioner (murmur2 of the key) puts "
            "them: where these users have moved is not known; train a new run, or let producers use murmur2",
        )
    return {partition: list(users.values()) for partition, users in found.items()}


def _put(users: dict[int, UserHistory], history: UserHistory, max_behaviors: int) -> None:
    """Add a history; a user who had one in two partitions, since the topic had grown before, gets both as one.

    Of equal times, those of the partition with the lower number come first: no log has an order of both.
    """
    known = users.get(history.sequence.user_key)
    if known is not None:
        merged = known.sequence.merge(history.sequence.events(), max_behaviors)
        history = UserHistory(merged, history.key_hash)
    users[history.sequence.user_key] = history
