"""User rows of the owned partitions: VectorStore → rows, exactly and without waiting.

A strong read costs hundreds of milliseconds; a bounded one is fast and may miss what was written in the last seconds.
The owner of a partition is the only writer of its users' rows, which makes every read here exact:

- what was written or deleted in the last `visibility_s` is kept in memory, and answers before the store is asked;
- for `visibility_s` after a partition was assigned, when its previous owner may just have written, reads are strong;
- a user that seems missing is asked for once more by single key, before it counts as new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mind_dist.index.vector_store import UserRow, VectorStore

_ROW_OVERHEAD_BYTES = 1024
"""What a row costs beside its arrays' content: objects, array headers, the cache's own entry."""


@dataclass(frozen=True, slots=True)
class _Entry:
    row: UserRow | None
    partition: int
    keep_until: float
    size: int


class UserRows:
    """The rows of one model version, for the owner of some partitions.

    Args:
        store: Where rows are kept.
        model_version: Whose rows.
        visibility_s: Within what time a write shows in a bounded read.
        max_bytes: Memory to spend; rows written within `visibility_s` stay whatever it says.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: VectorStore,
        model_version: str,
        *,
        visibility_s: float,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._model_version = model_version
        self._visibility_s = visibility_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0
        self._strong_until: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def assign(self, partition: int) -> None:
        """Forget a partition's rows and read it strongly for a while: another owner may just have written."""
        self.revoke(partition)
        self._strong_until[partition] = self._clock() + self._visibility_s

    def revoke(self, partition: int) -> None:
        """Forget the rows of a partition that is not owned any more."""
        self._strong_until.pop(partition, None)
        for user_key in [key for key, entry in self._entries.items() if entry.partition == partition]:
            self._drop(user_key)

    def load(self, partitions: Mapping[int, int]) -> dict[int, UserRow | None]:
        """Return users' rows, None for a user who has none.

        Args:
            partitions: User key → the partition its events come from.
        """
        rows = {}
        for user_key in partitions:
            entry = self._entries.get(user_key)
            if entry is not None:
                self._entries.move_to_end(user_key)
                rows[user_key] = entry.row
        unknown = {key: partition for key, partition in partitions.items() if key not in rows}
        for user_key, row in self._read(unknown).items():
            rows[user_key] = row
            self._put(user_key, row, unknown[user_key], keep_s=0)
        self._evict()
        return rows

    def write(self, rows: Collection[UserRow]) -> None:
        """Replace rows, and remember them."""
        if rows:
            self._store.upsert_users(self._model_version, list(rows))
        for row in rows:
            self._put(row.user_key, row, row.partition, keep_s=self._visibility_s)
        self._evict()

    def delete(self, partitions: Mapping[int, int]) -> None:
        """Delete users' rows (user key → partition), and remember that they are gone."""
        if partitions:
            self._store.delete_users(self._model_version, list(partitions))
        for user_key, partition in partitions.items():
            self._put(user_key, None, partition, keep_s=self._visibility_s)
        self._evict()

    def _read(self, partitions: Mapping[int, int]) -> dict[int, UserRow | None]:
        now = self._clock()
        by_strength: dict[bool, list[int]] = {True: [], False: []}
        for user_key, partition in partitions.items():
            by_strength[self._strong_until.get(partition, now) > now].append(user_key)
        found: dict[int, UserRow] = {}
        for strong, user_keys in by_strength.items():
            if user_keys:
                found |= self._store.get_users(self._model_version, user_keys, strong=strong)
        missing = [key for key in partitions if key not in found]
        if missing:
            found |= self._store.get_users_singly(self._model_version, missing)
        return {key: found.get(key) for key in partitions}

    def _put(self, user_key: int, row: UserRow | None, partition: int, *, keep_s: float) -> None:
        self._drop(user_key)
        entry = _Entry(row, partition, self._clock() + keep_s, _size(row))
        self._entries[user_key] = entry
        self._bytes += entry.size

    def _drop(self, user_key: int) -> None:
        entry = self._entries.pop(user_key, None)
        if entry is not None:
            self._bytes -= entry.size

    def _evict(self) -> None:
        """Drop the rows touched longest ago, up to the first that a bounded read might still miss."""
        now = self._clock()
        while self._bytes > self._max_bytes and self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].keep_until > now:
                return
            self._drop(oldest)


def _size(row: UserRow | None) -> int:
    if row is None:
        return _ROW_OVERHEAD_BYTES
    arrays = (row.interests, row.weights, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
    return _ROW_OVERHEAD_BYTES + sum(array.nbytes for array in arrays)
