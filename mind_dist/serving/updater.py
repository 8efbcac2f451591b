"""Kafka → fresh user rows, the core: events of one micro-batch → rows of one model version.

One step, in this order:

    1  poll
    2  decode, dead-letter the poison
    3  load the rows of the batch's users
    4  skip what a row has already
    5  compute interests
    6  upsert rows, state and offset in the same row
    7  commit offsets

A crash anywhere repeats work and never changes the result: what was not committed is read again, and a row says itself
what is in it. At-least-once delivery, effectively-once state.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mind_dist.checkpoint import Manifest
from mind_dist.config import ModelConfig, ServingConfig
from mind_dist.encoder import UserInterests
from mind_dist.errors import MindDistError, StaleAssignment
from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.keys import EventFeatures
from mind_dist.log.source import DeadLetters, EventSource
from mind_dist.observability import Metrics
from mind_dist.records import BehaviorSequence, Keys, Positions, Record
from mind_dist.serving.intake import Delivery, Intake, Taken
from mind_dist.serving.update_report import UpdateReport
from mind_dist.serving.user_rows import UserRows
from mind_dist.serving.user_update import UserUpdate

logger = logging.getLogger(__name__)

_LAG_TIMEOUT_S = 2.0
"""How long a step may be held up by asking for the lag."""


class UpdateStep(enum.IntEnum):
    """The steps of one update, by their numbers."""

    POLL = 1
    DECODE = 2
    LOAD = 3
    SKIP = 4
    COMPUTE = 5
    UPSERT = 6
    COMMIT = 7


class Encoder(Protocol):
    """What the updater needs of a loaded model version (`mind_dist.encoder.InterestEncoder`).

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
class _Batch:
    """What one poll brought; `first` and `end` are positions of the partitions in it."""

    records: Sequence[Record]
    first: Positions
    end: Positions
    polled_at: float

    @classmethod
    def of(cls, records: Sequence[Record], polled_at: float) -> _Batch:
        first: dict[int, int] = {}
        end = {}
        for record in records:
            first.setdefault(record.partition, record.offset)
            end[record.partition] = record.offset + 1
        return cls(records, first, end, polled_at)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class UserVectorUpdater:
    """Keeps the users of one model version fresh, from the partitions its source owns.

    Args:
        encoder: The model version.
        store: Where its users' rows are.
        source: The events, in a consumer group of this version alone.
        dead_letters: Where records go that cannot be decoded.
        config: Limits and times.
        metrics: Where numbers go.
        on_step: Called before each step: a heartbeat.
        clock: Seconds that never go back.
        now_ms: The time of day.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: VectorStore,
        source: EventSource,
        dead_letters: DeadLetters,
        *,
        config: ServingConfig,
        metrics: Metrics,
        on_step: Callable[[UpdateStep], None] = lambda _step: None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._encoder = encoder
        self._model_version = encoder.manifest.model_version
        self._source = source
        self._dead_letters = dead_letters
        manifest = encoder.manifest
        features = EventFeatures(encoder.config.behavior_features)  # a context is that of a request, and not kept
        self._intake = Intake(manifest.id_type, manifest.event_types, dead_letters, config.kafka, features)
        self._lease_s = config.kafka.max_poll_interval_s / 2
        self._silence_s = config.kafka.session_timeout_s / 2
        self._metrics = metrics
        self._on_step = on_step
        self._clock = clock
        self._now_ms = now_ms
        self._no_profile = np.zeros(encoder.config.num_profile_features, dtype=np.int64)
        self._rows = UserRows(
            store,
            self._model_version,
            visibility_s=config.visibility_s,
            max_bytes=config.row_cache_bytes,
            clock=clock,
        )
        self._owned: frozenset[int] = frozenset()
        self._expected: dict[int, int] = {}
        self._lags: dict[int, int] = {}
        self._lag_problem = ""

    def step(self, timeout_s: float) -> UpdateReport:
        """Apply the next micro-batch, waiting up to `timeout_s` for it.

        Whatever of `MindDistError` comes out of it, the source is back at the batch's start and nothing is lost.

        Raises:
            ServiceUnavailable: The log or the store did not answer within its adapter's bound.
            StaleAssignment: The batch took so long that another owner may be writing its users by now.
            PoisonLimitExceeded: So many records are poison that the producer must be broken.
            PositionLost: The log does not keep the position to go on from.
        """
        batch = self._poll(timeout_s)
        if not batch.records:
            return UpdateReport()
        try:
            return self._apply(batch)
        except MindDistError:
            self._source.seek(batch.first)
            self._expected.update(batch.first)
            raise

    @property
    def num_partitions(self) -> int:
        """How many partitions were owned at the last poll."""
        return len(self._owned)

    @property
    def lags(self) -> dict[int, int]:
        """Return each owned partition's lag in records, as `report_lag` last found it."""
        return dict(self._lags)

    @property
    def lag_problem(self) -> str:
        """Return why `report_lag` could not tell the lag; empty when it could."""
        return self._lag_problem

    def report_lag(self) -> None:
        """Set the lag gauge of every owned partition; where that fails, count it: lag never fails or holds up a step."""
        try:
            lag = self._source.lag(_LAG_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - no fault of a mere report may stop the events
            self._note_lag_failure(error)
            return
        self._lag_problem = ""
        for partition, count in lag.items():
            self._set_lag(partition, count)

    def _note_lag_failure(self, error: Exception) -> None:
        self._metrics.add("mind_dist_lag_report_failures", model_version=self._model_version)
        if not self._lag_problem:
            fields = {"model_version": self._model_version, "error": error}
            logger.warning("the lag cannot be told, events are applied all the same", extra={"fields": fields})
        self._lag_problem = str(error)

    def close(self) -> None:
        """Leave the log, committing nothing."""
        self._source.close()
        self._dead_letters.close()

    def _poll(self, timeout_s: float) -> _Batch:
        """1 poll, and notice which partitions came and went."""
        self._on_step(UpdateStep.POLL)
        records = self._source.poll(timeout_s)
        batch = _Batch.of(records, self._clock())
        owned = self._source.assignment()
        for partition in self._owned - owned:
            self._rows.revoke(partition)
            self._expected.pop(partition, None)
            self._set_lag(partition, 0)  # it is its next owner's now
            del self._lags[partition]
        self._owned = owned
        for partition, first in batch.first.items():
            # A partition can go and come back within one poll. Another owner's work shows in where it goes on.
            if self._expected.get(partition) != first:
                self._rows.assign(partition)
        self._expected.update(batch.end)
        return batch

    def _set_lag(self, partition: int, lag: int) -> None:
        self._lags[partition] = lag
        self._metrics.set("mind_dist_lag_records", lag, partition=str(partition), model_version=self._model_version)

    def _apply(self, batch: _Batch) -> UpdateReport:
        started = self._clock()
        self._on_step(UpdateStep.DECODE)
        taken = self._intake.take(batch.records)
        deliveries = taken.deliveries
        self._on_step(UpdateStep.LOAD)
        rows = self._rows.load({key: of_user[-1].record.partition for key, of_user in deliveries.items()})
        self._on_step(UpdateStep.SKIP)
        updates = [self._update(key, rows[key], of_user) for key, of_user in deliveries.items()]
        self._on_step(UpdateStep.COMPUTE)
        fresh = self._compute([update for update in updates if update.writes])
        self._on_step(UpdateStep.UPSERT)
        self._check_lease(batch)
        self._rows.write(fresh)
        self._rows.delete({update.history.user_key: update.partition for update in updates if update.deletes})
        report = self._report(batch, taken, updates)
        report.emit(self._metrics, self._model_version)
        self._on_step(UpdateStep.COMMIT)
        self._source.commit(batch.end)
        duration_s = self._clock() - started
        self._metrics.observe("mind_dist_update_seconds", duration_s, model_version=self._model_version)
        return report

    def _update(self, user_key: int, row: UserRow | None, deliveries: Sequence[Delivery]) -> UserUpdate:
        """4 skip what the row has already, apply the rest."""
        update = UserUpdate.of(user_key, row, self._no_profile)
        return update.apply(deliveries, self._encoder.max_behaviors, self._no_profile)

    def _compute(self, updates: Sequence[UserUpdate]) -> list[UserRow]:
        """5 compute interests: return the rows to write."""
        encoded = self._encoder.encode([update.history for update in updates]) if updates else []
        updated_ms = self._now_ms()
        return [
            UserRow(
                update.history.user_key,
                interests.vectors,
                interests.weights,
                update.history.item_keys,
                update.history.timestamps_ms,
                update.history.profile_keys,
                update.partition,
                update.next_offset,
                updated_ms,
                self._model_version,
                update.history.behavior_keys,
            )
            for update, interests in zip(updates, encoded, strict=True)
        ]

    def _check_lease(self, batch: _Batch) -> None:
        """6 upsert rows: not when another owner may be writing them by now.

        A process that was frozen wakes up without knowing that its partitions moved; the broker knows.
        """
        age_s = self._clock() - batch.polled_at
        if age_s > self._lease_s:
            raise StaleAssignment(
                f"a batch of {len(batch.records)} records took {age_s:.0f} s, more than the {self._lease_s:.0f} s after "
                "which its partitions may belong to another updater; it is read again"
            )
        if age_s > self._silence_s:
            self._source.commit(batch.first)  # stores what is stored already, and is refused to a former owner

    def _report(self, batch: _Batch, taken: Taken, updates: Sequence[UserUpdate]) -> UpdateReport:
        applied = [record for update in updates for record in update.applied]
        items = np.array([event.item_key for update in updates for event in update.events], dtype=np.int64)
        now_ms = self._now_ms()
        return UpdateReport(
            num_records=len(batch.records),
            num_poison=taken.num_poison,
            num_ignored=taken.num_ignored,
            num_applied=len(applied),
            num_skipped=sum(update.num_skipped for update in updates),
            num_unchanged=sum(update.num_unchanged for update in updates),
            num_unknown_items=int((~self._encoder.knows(items)).sum()),
            num_tombstones=sum(update.num_tombstones for update in updates),
            num_upserts=sum(update.writes for update in updates),
            num_deletes=sum(update.deletes for update in updates),
            freshness_s=tuple((now_ms - record.appended_ms) / 1000 for record in applied),
        )
