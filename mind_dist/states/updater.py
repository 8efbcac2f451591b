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
from mind_dist.errors import MindDistError, PoisonLimitExceeded, PositionLost, UnreadableBatch
from mind_dist.keys import EventFeatures, IdType
from mind_dist.log.codec import PoisonGate
from mind_dist.log.dead_letters import dead_letter
from mind_dist.log.source import EventSource
from mind_dist.log.transactions import NewRecord, Transactions
from mind_dist.records import Record
from mind_dist.states.applying import Applied, Keeping, apply
from mind_dist.states.intake import Taken, take
from mind_dist.states.local_store import LocalStore, StoredState
from mind_dist.states.note import Note
from mind_dist.states.partition import OpenReader, OwnedPartition
from mind_dist.states.record import UserState, decode_state, encode_state
from mind_dist.states.report import StatesReport
from mind_dist.states.shared import SharedStores

logger = logging.getLogger(__name__)

_RESTORE_POLL_S = 0.05


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

    @property
    def changed(self) -> dict[int, UserState | None]:
        return {key: each.state for key, each in self.applied.items() if each.changed}


class StatesUpdater:
    """Keeps the states of the users in the partitions that its source owns; use it from one thread.

    Args:
        source: The events, in the deployment's consumer group.
        transactions: Writes states, dead letters and positions.
        open_reader: Opens a reader of one partition of the log of states.
        open_store: Opens the local store of one partition.
        id_type: What ids are outside.
        config: What is kept.
        kafka: Topics and limits.
        shared: What the views of this process read.
        on_step: Called before each step: a heartbeat.
        may_take: Asked before each poll; while it is False, no more events are taken in.
    """

    def __init__(
        self,
        source: EventSource,
        transactions: Transactions,
        open_reader: OpenReader,
        open_store: Callable[[int], LocalStore],
        id_type: IdType,
        *,
        config: StatesConfig,
        kafka: KafkaConfig,
        shared: SharedStores,
        on_step: Callable[[UpdateStep], None] = lambda _step: None,
        may_take: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._transactions = transactions
        self._open_reader = open_reader
        self._open_store = open_store
        self._id_type = id_type
        self._features = EventFeatures(config.kept_features)
        self._keeping = Keeping(config.max_history, frozenset(config.event_types))
        self._kafka = kafka
        self._on_step = on_step
        self._shared = shared
        self._may_take = may_take
        self._is_held = False
        self._generation = -1
        self._owned: dict[int, OwnedPartition] = {}

    @property
    def partitions(self) -> Mapping[int, OwnedPartition]:
        """The partitions owned now; views read the stores of those at work."""
        return dict(self._owned)

    @property
    def stopped(self) -> Mapping[int, str]:
        """Partitions of which nothing is taken until an operator acts, and why."""
        return {p: each.stopped for p, each in self._owned.items() if each.stopped}

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
            self._generation = -1  # whatever was stored or not, it is read from the log before the next batch
            raise

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        """Return how many records of each owned partition are still to be applied.

        Raises:
            ServiceUnavailable: The log did not answer within `timeout_s`.
        """
        return self._source.lag(timeout_s)

    def close(self) -> None:
        """Leave the log, writing nothing."""
        self._shared.own({})
        for partition in self._owned.values():
            partition.close()
        self._owned.clear()
        self._source.close()
        self._transactions.close()

    def _step(self, timeout_s: float) -> StatesReport:
        self._on_step(UpdateStep.POLL)
        self._hold_or_go_on()
        restoring = any(each.restore for each in self._owned.values())
        records = self._poll(0 if restoring else timeout_s)
        self._shared.polled()
        is_new = self._notice_assignment()
        self._advance_restores()
        if is_new or not records:  # what came before it was known where to go on comes again
            return StatesReport()
        by_partition: dict[int, list[Record]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        return self._apply(by_partition)

    def _poll(self, timeout_s: float) -> Sequence[Record]:
        try:
            return self._source.poll(timeout_s)
        except (PositionLost, UnreadableBatch) as error:
            self._notice_assignment()
            if error.partition not in self._owned:
                raise
            self._stop(error.partition, str(error))
            return []

    # Take over

    def _notice_assignment(self) -> bool:
        """Tell whether the group has changed, and then take over what is ours: others may have had what stayed, too."""
        owned, generation = self._source.assignment(), self._source.membership().generation
        if gone := self._owned.keys() - owned:
            leaving = [self._owned.pop(number) for number in gone]
            self._share()
            for partition in leaving:
                partition.close()
        if generation == self._generation and self._owned.keys() == owned:
            return False
        notes = {number: Note.of_text(text) for number, text in self._source.notes().items()}
        starts = self._starts()
        for number in sorted(owned):
            self._source.pause([number])
            partition = self._owned.get(number) or OwnedPartition(number, self._open_store(number))
            self._owned[number] = partition
            self._go_on(partition, starts[number], notes[number])
            partition.begin_restore(self._open_reader)
        self._generation = generation
        return True

    def _starts(self) -> Mapping[int, int]:
        """Return where to go on with each partition: at its oldest record where nothing is stored."""
        stored = self._source.committed()
        return stored if stored.keys() == self._source.assignment() else {**self._source.oldest_positions(), **stored}

    def _go_on(self, partition: OwnedPartition, start: int, note: Note) -> None:
        partition.gate = PoisonGate(self._kafka.max_poison_fraction, self._kafka.poison_window, note.counted)
        partition.stopped, partition.stored = note.stopped, start
        self._source.seek({partition.number: start})

    def _advance_restores(self) -> None:
        for number, partition in self._owned.items():
            if partition.restore is None:
                continue
            try:
                is_done = partition.advance_restore(_RESTORE_POLL_S)
            except PositionLost as error:
                fields = {"partition": number, "error": error}
                logger.warning("local states are too old, reading all of them again", extra={"fields": fields})
                continue
            if is_done:
                self._source.resume([] if partition.stopped or self._is_held else [number])
                self._share()

    def _share(self) -> None:
        """Let views read the partitions whose states are all here."""
        self._shared.own({p: each.store for p, each in self._owned.items() if each.restore is None})

    def _hold_or_go_on(self) -> None:
        """Take nothing in while the views are too far behind; being polled all the same, the partitions stay ours."""
        is_held = not self._may_take()
        if is_held == self._is_held:
            return
        self._is_held = is_held
        running = [p for p, each in self._owned.items() if each.restore is None and not each.stopped]
        (self._source.pause if is_held else self._source.resume)(running)

    def look_at_stopped(self) -> None:
        """Go on with the stopped partitions that an operator has given another position, or let go on.

        Raises:
            ServiceUnavailable: The log did not answer within its adapter's bound.
        """
        if not self.stopped:
            return
        notes, starts = self._source.notes(), self._starts()
        for number in self.stopped:
            note = Note.of_text(notes[number])
            if starts[number] != self._owned[number].stored or not note.stopped:
                self._go_on(self._owned[number], starts[number], Note())
                self._owned[number].begin_restore(self._open_reader)
                logger.info("partition goes on", extra={"fields": {"partition": number, "position": starts[number]}})

    def _stop(self, number: int, reason: str) -> None:
        """Take nothing more of a partition, and note why, for operators and later owners; the others go on."""
        partition = self._owned[number]
        self._source.pause([number])
        partition.stopped = reason
        note = Note(partition.gate.counted, reason).to_text()
        self._transactions.commit([], {number: partition.stored}, self._source.membership(), {number: note})
        fields = {"partition": number, "reason": reason}
        logger.error("partition stopped: mend the cause, then see python -m jobs.partitions", extra={"fields": fields})

    # Apply

    def _apply(self, by_partition: Mapping[int, Sequence[Record]]) -> StatesReport:
        self._on_step(UpdateStep.DECODE)
        work = [each for p, of in by_partition.items() if (each := self._decode(self._owned[p], of)) is not None]
        if not work:
            return StatesReport()
        self._on_step(UpdateStep.LOAD)
        for each in work:
            self._merge(each)
        self._on_step(UpdateStep.COMMIT)
        states = [self._state_record(each, *change) for each in work for change in each.changed.items()]
        letters = [dead_letter(self._kafka, *letter) for each in work for letter in each.taken.letters]
        offsets = self._transactions.commit(
            [*states, *letters],
            {each.partition.number: each.end for each in work},
            self._source.membership(),
            {each.partition.number: Note(each.taken.gate.counted).to_text() for each in work},
        )
        self._on_step(UpdateStep.STORE)
        self._store(work, states, offsets)
        self._on_step(UpdateStep.TELL)
        for each in work:
            applied_ms = [at for user in each.applied.values() for at in user.appended_ms]
            self._shared.note_appended(each.partition.number, each.partition.store.position, applied_ms)
        self._shared.tell()
        return StatesReport.of(
            [applied for each in work for applied in each.applied.values()],
            num_records=sum(len(of) for of in by_partition.values()),
            num_poison=len(letters),
        )

    def _decode(self, partition: OwnedPartition, records: Sequence[Record]) -> _Work | None:
        """2 decode; a partition with too much poison is stopped where it is, with nothing of this batch taken."""
        try:
            taken = take(records, partition.gate, self._id_type, self._features, self._kafka.max_clock_skew_ms)
        except PoisonLimitExceeded as error:
            self._stop(partition.number, str(error))
            return None
        return _Work(partition, records[-1].offset + 1, taken)

    def _merge(self, work: _Work) -> None:
        """3 load, 4 merge."""
        changes = work.taken.changes
        stored = work.partition.store.get(list(changes))
        self._on_step(UpdateStep.MERGE)
        for (user_key, of_user), found in zip(changes.items(), stored, strict=True):
            state = self._read(user_key, found)
            work.applied[user_key] = apply(user_key, state, of_user, self._keeping)

    def _read(self, user_key: int, found: StoredState | None) -> UserState | None:
        return decode_state(user_key, found.value, self._features.behavior) if found and found.value else None

    def _state_record(self, work: _Work, user_key: int, state: UserState | None) -> NewRecord:
        value = None if state is None else encode_state(state, self._features.behavior)
        return NewRecord(self._kafka.states_topic, work.partition.number, str(user_key).encode(), value)

    def _store(self, work: Sequence[_Work], states: Sequence[NewRecord], offsets: Sequence[int]) -> None:
        """6 write what the log has now into the local stores."""
        by_partition: dict[int, list[StoredState]] = {}
        for record, offset in zip(states, offsets, strict=False):  # the dead letters' offsets come behind
            number = record.partition
            assert number is not None
            by_partition.setdefault(number, []).append(
                StoredState(offset, int(record.key or b"0"), record.value or b"")
            )
        for each in work:
            each.partition.gate, each.partition.stored = each.taken.gate, each.end
            if fresh := by_partition.get(each.partition.number):
                each.partition.store.put(fresh, fresh[-1].position + 1)
