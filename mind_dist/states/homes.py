"""Where a user's state stands, once partitions have been added to the events: where it was.

A key's partition is another one from then on, for most users, and their states cannot be in two. So a user's home stays
the partition that the key had among as many as there are of the states; what comes in other ones is forwarded there, in
the transaction that stores how far those were read. It comes to stand behind all that was in the home before: the order
of a user's records is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from mind_dist.errors import PoisonEvent
from mind_dist.log.growth import Growth
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import Record


class Homes:
    """Tells each record's home.

    Args:
        num_partitions: Partitions of the log of states.
        count_now: Asks how many the events have now.
    """

    def __init__(self, num_partitions: int, count_now: Callable[[], int]) -> None:
        self.num_partitions = num_partitions
        self._growth = Growth(num_partitions, count_now)
        self._count = num_partitions

    def of(self, record: Record) -> int:
        """Return the partition that a record's user is at home in.

        Raises:
            PoisonEvent: It cannot be told: the topic has grown, and the record is where no number of partitions puts it.
        """
        hash_of_key = key_hash(record.key or b"")
        home = home_partition(hash_of_key, self.num_partitions)
        if home == record.partition:
            return home
        if self._is_placed(hash_of_key, record.partition):
            return home
        self._count = self._growth.met_elsewhere()
        if self._count == self.num_partitions:
            return record.partition  # another partitioner's, and always was: so are the states
        if self._is_placed(hash_of_key, record.partition):
            return home
        raise PoisonEvent(
            f"key: in partition {record.partition} of {self._count}, where Kafka's partitioner (murmur2) puts it among no number "
            f"of partitions from {self.num_partitions} on: where its user's state is cannot be told"
        )

    def _is_placed(self, hash_of_key: int, partition: int) -> bool:
        """Tell whether some number of partitions, once the topic had grown, puts a key here."""
        counts = range(max(self.num_partitions, partition) + 1, self._count + 1)
        return any(home_partition(hash_of_key, count) == partition for count in counts)
