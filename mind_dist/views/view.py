"""One model version's rows, kept behind the states: which users changed → encode → upsert → store the position.

The local stores name each user once, where it changed last. So a view is a position in each partition: what lies behind
it is in the rows, what lies ahead is still to be written, and each user only once, however often it changed. A new view
begins at 0, and is filled by the same steps.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mind_dist.checkpoint import Manifest
from mind_dist.config import ModelConfig, ViewsConfig
from mind_dist.encoder import UserInterests
from mind_dist.errors import VectorStoreError
from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.log.source import DeadLetters
from mind_dist.observability import Metrics
from mind_dist.records import BehaviorSequence, Keys, Record
from mind_dist.states.local_store import LocalStore, StoredState
from mind_dist.states.record import decode_state
from mind_dist.views.audit import differing, sample
from mind_dist.views.cursor import Cursor
from mind_dist.views.positions import ViewPositions
from mind_dist.views.reading import Reading

logger = logging.getLogger(__name__)

_KEEP_EVERY_S = 3600.0
"""How often positions that stand still are stored again: brokers forget them after some days."""

Stores = Mapping[int, LocalStore]
"""Partition → its states, of the partitions that are ours and at work."""


class Encoder(Protocol):
    """What a view needs of a loaded model version (`mind_dist.encoder.InterestEncoder`).

    Attributes:
        manifest: What the version is.
        config: Its model's settings.
        max_behaviors: The longest history it looks at; a row keeps `BehaviorSequence.newest` of so many.
    """

    manifest: Manifest
    config: ModelConfig
    max_behaviors: int

    def knows(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each item whether it has a vector."""
        ...

    def encode(self, sequences: Sequence[BehaviorSequence]) -> Sequence[UserInterests]:
        """Return each user's interests; items that are not known take no part."""
        ...


@dataclass(frozen=True, slots=True)
class ViewReport:
    """What one step did.

    Attributes:
        num_rows: Rows written.
        num_deletes: Rows deleted.
        num_failed: Users that cannot be encoded, and have no row, or an old one.
        reached: Partition → the position up to which rows are written now, of those that moved.
    """

    num_rows: int = 0
    num_deletes: int = 0
    num_failed: int = 0
    reached: Mapping[int, int] = field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """How many users were looked at."""
        return self.num_rows + self.num_deletes + self.num_failed


class View:
    """The rows of one model version; use it from one thread.

    Args:
        encoder: The version.
        index: Where its rows are.
        positions: Where it keeps how far it is.
        dead_letters: Where the states of users go that cannot be encoded.
        kept: Names of the features that states keep of behaviors.
        config: Sizes and times.
        metrics: Where numbers go.
        may_write: Asked before each write; False while other owners may have the partitions, as after a freeze.
        clock: Seconds that never go back.
        now_ms: The time of day.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: VectorStore,
        positions: ViewPositions,
        dead_letters: DeadLetters,
        kept: tuple[str, ...],
        *,
        config: ViewsConfig,
        metrics: Metrics,
        may_write: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.model_version = encoder.manifest.model_version
        self._encoder = encoder
        self._index = index
        self._positions = positions
        self._reading = Reading.of(encoder.manifest, encoder.config, encoder.max_behaviors, kept)
        self._config = config
        self._metrics = metrics
        self._may_write = may_write
        self._dead_letters = dead_letters
        self._clock = clock
        self._now_ms = now_ms
        self._draw = random.Random()
        self._cursors: dict[int, Cursor] = {}
        self._store_at = clock()
        self._keep_at = clock() + _KEEP_EVERY_S
        self._look_at = clock() + config.look_s

    @property
    def unkept(self) -> Sequence[str]:
        """Features of behaviors that the version reads and states do not keep."""
        return self._reading.unkept

    def step(self, stores: Stores, taken_over: float) -> ViewReport:
        """Write the rows of the users that changed first, at most `batch_size` of them.

        Args:
            stores: The states.
            taken_over: When the newest of the partitions was taken over, in seconds that never go back.

        Raises:
            ServiceUnavailable: The index or the log did not answer; the next call goes on where this one began.
            VectorStoreError: The index refused.
        """
        self._follow(stores, taken_over)
        for partition in self._in_order(stores):
            cursor = self._cursors[partition]
            users = stores[partition].changed_from(cursor.position, self._config.batch_size)
            if users:
                report = self._write(partition, users)
                if report is None:
                    return ViewReport()
                cursor.position = users[-1].position + 1
                self._store_now_and_then()
                return report
            cursor.position = max(cursor.position, stores[partition].position)
        self._store_now_and_then()
        return ViewReport()

    @property
    def positions(self) -> dict[int, int]:
        """Up to where in the log of states each partition's rows are written."""
        return {partition: cursor.position for partition, cursor in list(self._cursors.items())}

    def _lag(self, stores: Stores) -> dict[int, int]:
        return {
            p: max(0, store.position - self._cursors[p].position) for p, store in stores.items() if p in self._cursors
        }

    def audit(self, stores: Stores) -> int:
        """Compare some rows with their states, write those that differ anew, and return how many did.

        Raises:
            ServiceUnavailable: The index did not answer.
        """
        num_repaired = 0
        for partition, store in stores.items():
            cursor = self._cursors.get(partition)
            if cursor is None:
                continue
            shown = cursor.shown_at(self._clock(), self._config.audit_after_s)
            users = sample(store, shown, self._config.audit_rows, self._draw)
            wrong = differing(self._index, self.model_version, users)
            # those that changed while this compared are written by and by
            wrong = [each for each in wrong if store.get([each.user_key]) == [each]]
            if wrong and self._write(partition, wrong):
                num_repaired += len(wrong)
        self._metrics.add("mind_dist_view_repairs", num_repaired, model_version=self.model_version)
        return num_repaired

    def close(self) -> None:
        """Store how far it is, and leave the log."""
        try:
            self._store()
        finally:
            self._positions.close()
            self._dead_letters.close()

    # Where it is

    def _follow(self, stores: Stores, taken_over: float) -> None:
        """Take up partitions that came, and notice where somebody has put the view back."""
        for partition in self._cursors.keys() - stores.keys():
            del self._cursors[partition]
        new = stores.keys() - self._cursors.keys()
        if new:
            stored, notes = self._positions.stored(new), self._positions.notes(new)
            for partition in new:
                self._cursors[partition] = self._cursor(stored.get(partition, 0), notes.get(partition, ""), taken_over)
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + self._config.look_s
            stored = self._positions.stored(self._cursors)
            for partition, cursor in self._cursors.items():
                if stored.get(partition, 0) < cursor.stored:
                    cursor.position = cursor.stored = stored.get(partition, 0)
                    fields = {"model_version": self.model_version, "partition": partition, "position": cursor.position}
                    logger.warning("the view was put back, writing its rows again from there", extra={"fields": fields})
        for cursor in self._cursors.values():
            if cursor.redo_at is not None and self._clock() >= cursor.redo_at:
                cursor.position, cursor.redo_at = min(cursor.position, cursor.redo_from), None

    def _cursor(self, start: int, note: str, taken_over: float) -> Cursor:
        """Return where to go on: what an owner before may still be writing is written once more when it has ended."""
        redo_at = taken_over + self._config.settle_s
        if redo_at <= self._clock():
            return Cursor(start, start)
        return Cursor(start, start, redo_at, min(start, int(note)) if note.isdecimal() else start)

    def _in_order(self, stores: Stores) -> list[int]:
        """Return the partitions, the one furthest behind first."""
        behind = self._lag(stores)
        return sorted(stores, key=lambda partition: -behind[partition])

    def _store_now_and_then(self) -> None:
        if self._clock() >= self._store_at:
            self._store()

    def _store(self) -> None:
        self._store_at = self._clock() + self._config.store_s
        is_due = self._clock() >= self._keep_at
        moved = {p: cursor for p, cursor in self._cursors.items() if is_due or cursor.position != cursor.stored}
        if moved and self._may_write():
            positions = {p: cursor.position for p, cursor in moved.items()}
            self._positions.store(positions, {p: cursor.note for p, cursor in moved.items()})
            for partition, position in positions.items():
                self._cursors[partition].stored = position
            self._keep_at = self._clock() + _KEEP_EVERY_S if is_due else self._keep_at

    # Rows

    def _write(self, partition: int, users: Sequence[StoredState]) -> ViewReport | None:
        known = [user for user in users if user.value]
        forgotten = [user.user_key for user in users if not user.value]
        rows = self._rows(partition, known)
        if not self._may_write():
            return None
        if rows:
            self._index.upsert_users(self.model_version, rows)
        if forgotten:
            self._forget(forgotten)
        if len(rows) < len(known):
            self._dead_letters.flush()
        report = ViewReport(len(rows), len(forgotten), len(known) - len(rows), {partition: users[-1].position + 1})
        self._metrics.add("mind_dist_user_upserts", report.num_rows, model_version=self.model_version)
        self._metrics.add("mind_dist_users_not_encoded", report.num_failed, model_version=self.model_version)
        return report

    def _forget(self, user_keys: Sequence[int]) -> None:
        """Delete users' rows, in the versions that nobody follows too: these are kept for a way back, and no reason to keep users."""
        self._index.delete_users(self.model_version, user_keys)
        for info in self._index.versions():
            if info.model_version == self.model_version:
                continue
            try:
                self._index.delete_users(info.model_version, user_keys)
            except (
                VectorStoreError
            ) as error:  # it may be dropped meanwhile; and its own view deletes them before it is used
                fields = {"model_version": info.model_version, "error": error}
                logger.warning("users are not forgotten in a version that is not followed", extra={"fields": fields})

    def _rows(self, partition: int, users: Sequence[StoredState]) -> list[UserRow]:
        """Encode users; where some cannot be, the others are."""
        try:
            sequences = [
                self._reading.sequence(decode_state(user.user_key, user.value, self._reading.kept)) for user in users
            ]
            encoded = self._encoder.encode(sequences) if sequences else []
        except Exception as error:  # noqa: BLE001 - whatever one user does to the encoder, the others are served
            if len(users) > 1:
                half = len(users) // 2
                return [*self._rows(partition, users[:half]), *self._rows(partition, users[half:])]
            self._set_aside(partition, users[0], f"{type(error).__name__}: {error}")
            return []
        rows = []
        for user, sequence, interests in zip(users, sequences, encoded, strict=True):
            if np.isfinite(interests.vectors).all():
                rows.append(self._row(partition, user, sequence, interests))
            else:
                self._set_aside(partition, user, "its interests are not finite")
        return rows

    def _set_aside(self, partition: int, user: StoredState, reason: str) -> None:
        fields = {"model_version": self.model_version, "user_key": user.user_key, "reason": reason}
        logger.warning("a user cannot be encoded", extra={"fields": fields})
        state = Record(partition, user.position, str(user.user_key).encode(), user.value, self._now_ms())
        self._dead_letters.send(state, f"{self.model_version}: {reason}")

    def _row(self, partition: int, user: StoredState, sequence: BehaviorSequence, interests: UserInterests) -> UserRow:
        return UserRow(
            user.user_key,
            interests.vectors,
            interests.weights,
            sequence.item_keys,
            sequence.timestamps_ms,
            sequence.profile_keys,
            partition,
            user.position,
            self._now_ms(),
            self.model_version,
            sequence.behavior_keys,
        )
