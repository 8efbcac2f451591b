"""Events → user states, the core: what a micro-batch says, written in one transaction with the positions behind it.

One step, in this order:

    1  poll                            5  one transaction: states, dead letters, positions
    2  decode, set aside the poison    6  the local store
    3  load the users' states          7  tell the views
    4  merge

A crash before 5 has ended leaves nothing; after it, everything. An owner whose partitions have moved is refused at 5,
whatever it was doing when it froze. What goes wrong with one partition stops that one, and no other.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mind_dist.config import KafkaConfig, StatesConfig
from mind_dist.errors import MindDistError, PoisonLimitExceeded, StateError
from mind_dist.keys import EventFeatures, IdType, fingerprint
from mind_dist.log.codec import forwarded
from mind_dist.log.dead_letters import dead_letter
from mind_dist.log.transactions import NewRecord, Transactions
from mind_dist.records import Record
from mind_dist.states.applying import Applied, Keeping, apply
from mind_dist.states.homes import Homes
from mind_dist.states.intake import Taken, take
from mind_dist.states.local_store import StoredState
from mind_dist.states.ownership import Ownership
from mind_dist.states.partition import OwnedPartition
from mind_dist.states.record import UserState, decode_state, encode_state
from mind_dist.states.report import StatesReport
from mind_dist.states.shared import SharedStores

logger = logging.getLogger(__name__)


class UpdateStep(enum.IntEnum):
    """The steps of one update, by their numbers."""

    POLL = 1
    DECODE = 2
    LOAD = 3
    MERGE = 4
    COMMIT = 5
    STORE = 6
    TELL = 7


@dataclass(slots=True)
class _Work:
    """What a batch does to one partition."""

    partition: OwnedPartition
    end: int
    taken: Taken
    applied: dict[int, Applied] = field(default_factory=dict)
    states: list[NewRecord] = field(default_factory=list)


class StatesUpdater:
    """Keeps the states of the users in the partitions that its source owns; use it from one thread.

    Args:
        owned: The partitions of the events that are ours.
        transactions: Writes states, dead letters and positions.
        homes: Tells where users' states are.
        id_type: What ids are outside.
        config: What is kept.
        kafka: Topics and limits.
        shared: What the views of this process read.
        on_step: Called before each step: a heartbeat.
        may_take: Asked before each poll; while it is False, no more events are taken in.
    """

    def __init__(
        self,
        owned: Ownership,
        transactions: Transactions,
        homes: Homes,
        id_type: IdType,
        *,
        config: StatesConfig,
        kafka: KafkaConfig,
        shared: SharedStores,
        on_step: Callable[[UpdateStep], None] = lambda _step: None,
        may_take: Callable[[], bool] = lambda: True,
    ) -> None:
        self._owned = owned
        self._transactions = transactions
        self._homes = homes
        self._id_type = id_type
        self._features = EventFeatures(config.kept_features)
        self._keeping = Keeping(config.max_history, frozenset(config.event_types))
        self._kafka = kafka
        self._shared = shared
        self._on_step = on_step
        self._may_take = may_take
        self._log_key = fingerprint(owned.events_log)

    @property
    def partitions(self) -> Mapping[int, OwnedPartition]:
        """The partitions owned now."""
        return self._owned.partitions

    @property
    def num_partitions(self) -> int:
        """Partitions of the log of states: so many updaters at most have users to keep."""
        return self._homes.num_partitions

    @property
    def stopped(self) -> Mapping[int, str]:
        """Partitions of which nothing is taken until an operator acts, and why."""
        return self._owned.stopped

    def step(self, timeout_s: float) -> StatesReport:
        """Apply the next micro-batch, waiting up to `timeout_s` for it.

        Whatever of `MindDistError` comes out of it, all partitions go on from what the log has stored.

        Raises:
            ServiceUnavailable: The log did not answer within its adapter's bound.
            StaleAssignment: The partitions have moved to another owner, and nothing was written.
        """
        try:
            return self._step(timeout_s)
        except MindDistError:
            self._owned.look_again()  # whatever was stored or not, it is read from the log before the next batch
            raise

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        """Return how many records of each owned partition are still to be applied.

        Raises:
            ServiceUnavailable: The log did not answer within `timeout_s`.
        """
        return self._owned.lag(timeout_s)

    def look_at_stopped(self) -> None:
        """Go on with the stopped partitions that an operator has let go on.

        Raises:
            ServiceUnavailable: The log did not answer within its adapter's bound.
        """
        self._owned.look_at_stopped()

    def close(self) -> None:
        """Leave the log, writing nothing."""
        self._owned.close()
        self._transactions.close()

    def _step(self, timeout_s: float) -> StatesReport:
        self._on_step(UpdateStep.POLL)
        by_partition: dict[int, list[Record]] = {}
        for record in self._owned.poll(timeout_s, hold=not self._may_take()):
            by_partition.setdefault(record.partition, []).append(record)
        return self._apply(by_partition) if by_partition else StatesReport()

    def _apply(self, by_partition: Mapping[int, Sequence[Record]]) -> StatesReport:
        work = [each for p, of in by_partition.items() if (each := self._work(self.partitions[p], of)) is not None]
        if not work:
            return StatesReport()
        self._on_step(UpdateStep.COMMIT)
        states = [record for each in work for record in each.states]
        letters = [dead_letter(self._kafka, *letter) for each in work for letter in each.taken.letters]
        away = [
            NewRecord(self._kafka.topic, home, record.key, forwarded(record))
            for each in work
            for record, home in each.taken.away
        ]
        offsets = self._transactions.commit(
            [*states, *letters, *away],
            {each.partition.number: each.end for each in work},
            self._owned.membership(),
            {each.partition.number: each.partition.note(each.taken.gate.counted, each.end).to_text() for each in work},
        )
        self._on_step(UpdateStep.STORE)
        self._store(work, states, offsets)
        self._on_step(UpdateStep.TELL)
        for each in work:
            applied_ms = [at for user in each.applied.values() for at in user.appended_ms]
            if each.partition.store is not None:
                self._shared.note_appended(each.partition.number, each.partition.store.position, applied_ms)
        self._shared.tell()
        return StatesReport.of(
            [applied for each in work for applied in each.applied.values()],
            num_records=sum(len(of) for of in by_partition.values()),
            num_poison=len(letters),
            num_forwarded=len(away),
        )

    def _work(self, partition: OwnedPartition, records: Sequence[Record]) -> _Work | None:
        """Return what records do to a partition; one that they stop is stopped where it is, and nothing of them is taken."""
        try:
            self._on_step(UpdateStep.DECODE)
            taken = take(
                records,
                partition.gate,
                self._homes,
                id_type=self._id_type,
                features=self._features,
                max_clock_skew_ms=self._kafka.max_clock_skew_ms,
                forgiven_to=partition.forgiven_to,
            )
            work = _Work(partition, records[-1].offset + 1, taken)
            self._merge(work)
        except (PoisonLimitExceeded, StateError) as error:
            self._owned.stop(partition.number, str(error))
        except MindDistError:
            raise
        except Exception as error:
            logger.exception("records cannot be applied", extra={"fields": {"partition": partition.number}})
            self._owned.stop(partition.number, f"{type(error).__name__}: {error}: see the log")
        else:
            return work
        return None

    def _merge(self, work: _Work) -> None:
        """3 load, 4 merge."""
        self._on_step(UpdateStep.LOAD)
        changes, store = work.taken.changes, work.partition.store
        stored = store.get(list(changes)) if store is not None else []
        self._on_step(UpdateStep.MERGE)
        for (user_key, of_user), found in zip(changes.items(), stored, strict=True):
            state = self._read(user_key, found)
            work.applied[user_key] = apply(user_key, state, of_user, self._keeping, self._log_key)
            if work.applied[user_key].changed:
                work.states.append(self._state_record(work, user_key))

    def _read(self, user_key: int, found: StoredState | None) -> UserState | None:
        return decode_state(user_key, found.value, self._features.behavior) if found and found.value else None

    def _state_record(self, work: _Work, user_key: int) -> NewRecord:
        state = work.applied[user_key].state
        value = None if state is None else encode_state(state, self._features.behavior)
        return NewRecord(self._kafka.states_topic, work.partition.number, str(user_key).encode(), value)

    def _store(self, work: Sequence[_Work], states: Sequence[NewRecord], offsets: Sequence[int]) -> None:
        """6 write what the log has now into the local stores."""
        by_partition: dict[int, list[StoredState]] = {}
        for record, offset in zip(states, offsets, strict=False):  # those of other records come behind
            number = record.partition
            assert number is not None
            by_partition.setdefault(number, []).append(
                StoredState(offset, int(record.key or b"0"), record.value or b"")
            )
        for each in work:
            each.partition.gate, each.partition.stored = each.taken.gate, each.end
            fresh, store = by_partition.get(each.partition.number), each.partition.store
            if fresh and store is not None:
                store.put(fresh, fresh[-1].position + 1)
                store.note_current()
