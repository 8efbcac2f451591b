"""The partitions of the events that are ours: taken over, restored, held, stopped, and let go on.

A partition that comes is held until its states are all here, in this order: where the group has come to is read first,
then the log of states up to its end. A transaction of the owner before that ends in between is then in the states, and
its events come again and are skipped.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

from mind_dist.config import KafkaConfig
from mind_dist.errors import PositionLost, UnreadableBatch
from mind_dist.log.codec import PoisonGate
from mind_dist.log.source import EventSource
from mind_dist.log.transactions import Membership, NewRecord, Transactions
from mind_dist.records import Positions, Record
from mind_dist.states.local_store import LocalStore
from mind_dist.states.note import Note
from mind_dist.states.partition import EVENTS_LOG_KEY, OpenReader, OwnedPartition
from mind_dist.states.shared import SharedStores

logger = logging.getLogger(__name__)

_RESTORE_POLL_S = 0.05


class Ownership:
    """Use it from one thread.

    Args:
        open_source: Opens the events in the deployment's consumer group; partitions that come are paused.
        transactions: Writes why a partition has stopped, for operators and later owners.
        open_reader: Opens a reader of one partition of the log of states.
        open_store: Opens the local store of one partition.
        events_log: Which log the source reads, by name and id: states that are of another one are not touched.
        num_partitions: Partitions of the log of states: there are none of a partition of the events that was added to these.
        kafka: Topics and limits.
        shared: What the views of this process read.
    """

    def __init__(
        self,
        open_source: Callable[[], EventSource],
        transactions: Transactions,
        open_reader: OpenReader,
        open_store: Callable[[int], LocalStore],
        *,
        events_log: str,
        num_partitions: int,
        kafka: KafkaConfig,
        shared: SharedStores,
    ) -> None:
        self.events_log = events_log
        self._num_partitions = num_partitions
        self._open_source = open_source
        self._source = open_source()
        self._transactions = transactions
        self._open_reader = open_reader
        self._open_store = open_store
        self._kafka = kafka
        self._shared = shared
        self._is_held = False
        self._generation = -1
        self._owned: dict[int, OwnedPartition] = {}

    @property
    def partitions(self) -> Mapping[int, OwnedPartition]:
        """The partitions owned now."""
        return dict(self._owned)

    @property
    def stopped(self) -> Mapping[int, str]:
        """Partitions of which nothing is taken until an operator acts, and why."""
        return {p: each.stopped for p, each in self._owned.items() if each.stopped}

    def membership(self) -> Membership:
        """Return our place in the group as of the last poll."""
        return self._source.membership()

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        """Return how many records of each partition are still to be polled."""
        return self._source.lag(timeout_s)

    def poll(self, timeout_s: float, *, hold: bool) -> Sequence[Record]:
        """Return the next records of the partitions at work, and go on taking over the others.

        Args:
            timeout_s: How long to wait for records.
            hold: Poll none of them; being asked for all the same, the partitions stay ours.

        Raises:
            ServiceUnavailable: The log did not answer within its adapter's bound.
            StaleAssignment: A partition that was to be stopped has moved to another owner.
        """
        self._hold_or_go_on(is_held=hold)
        is_restoring = any(each.restore for each in self._owned.values())
        try:
            records = self._source.poll(0 if is_restoring else timeout_s)
        except (PositionLost, UnreadableBatch) as error:
            self._notice_assignment()
            if error.partition not in self._owned:
                raise
            self.stop(error.partition, str(error))
            if isinstance(error, UnreadableBatch):
                self._reopen()
            return []
        self._shared.counted(self._source.membership().counted_s)
        is_new = self._notice_assignment()
        self._advance_restores()
        return [] if is_new else records  # what came before it was known where to go on comes again

    def look_again(self) -> None:
        """Read where the group has come to, and the log of states, before the next records: something failed."""
        self._generation = -1

    def look_at_stopped(self) -> None:
        """Go on with the stopped partitions that an operator has given another position, or let go on."""
        if not self.stopped:
            return
        notes, starts = self._source.notes(), self._starts(self._source.committed())
        for number in self.stopped:
            is_let_go = self._owned[number].is_noted and not Note.of_text(notes[number]).stopped
            if starts[number] != self._owned[number].stored or is_let_go:
                note = dataclasses.replace(Note.of_text(notes[number]), stopped="")
                self._go_on(self._owned[number], starts[number], note)
                self._begin(self._owned[number])
                logger.info("partition goes on", extra={"fields": {"partition": number, "position": starts[number]}})

    def stop(self, number: int, reason: str) -> None:
        """Take nothing more of a partition, and note why, for operators and later owners; the others go on."""
        partition = self._owned[number]
        self._source.pause([number])
        partition.stopped = reason
        self._note(partition)
        partition.is_noted = bool(Note.of_text(self._source.notes()[number]).stopped)  # Tansu keeps no notes
        fields = {"partition": number, "reason": reason}
        logger.error("partition stopped: mend the cause, then see python -m jobs.partitions", extra={"fields": fields})

    def close(self) -> None:
        """Leave the log, writing nothing."""
        self._shared.own({})
        for partition in self._owned.values():
            partition.close()
        self._owned.clear()
        self._source.close()

    def _reopen(self) -> None:
        """Join the group anew: a client that met a batch which it cannot read does not get past it."""
        self._source.close()
        self._source = self._open_source()
        self._generation = -1

    def _notice_assignment(self) -> bool:
        """Tell whether the group has changed, and then take over what is ours: others may have had what stayed, too."""
        generation, owned = self._source.membership().generation, self._source.assignment()
        if gone := self._owned.keys() - owned:
            leaving = [self._owned.pop(number) for number in gone]
            self._share()
            for partition in leaving:
                partition.close()
        if generation == self._generation and self._owned.keys() == owned:
            return False
        self._transactions.end_unfinished(owned)
        notes = {number: Note.of_text(text) for number, text in self._source.notes().items()}
        stored = self._source.committed()
        starts = self._starts(stored)
        for number in sorted(owned):
            self._source.pause([number])
            partition = self._owned.get(number) or self._opened(number)
            self._owned[number] = partition
            partition.is_begun = number in stored
            self._go_on(partition, starts[number], notes[number])
            self._begin(partition)
        self._generation = generation
        return True

    def _starts(self, stored: Positions) -> Mapping[int, int]:
        """Return where to go on with each partition: at its oldest record where nothing is stored."""
        return stored if stored.keys() == self._source.assignment() else {**self._source.oldest_positions(), **stored}

    def _go_on(self, partition: OwnedPartition, start: int, note: Note) -> None:
        partition.gate = PoisonGate(self._kafka.max_poison_fraction, self._kafka.poison_window, note.counted)
        partition.stopped, partition.stored, partition.is_noted = note.stopped, start, bool(note.stopped)
        partition.forgiven_to = note.forgiven_to
        self._source.seek({partition.number: start})

    def _opened(self, number: int) -> OwnedPartition:
        if number < self._num_partitions:
            return OwnedPartition(number, self._open_store(number))
        logger.info(
            "partition was added: its events go on to where users' states are", extra={"fields": {"partition": number}}
        )
        return OwnedPartition(number, None)

    def _begin(self, partition: OwnedPartition) -> None:
        """Read its states, or take its events at once where it has none."""
        partition.begin_restore(self._open_reader)
        if partition.restore is None:
            self._take(partition)

    def _take(self, partition: OwnedPartition) -> None:
        self._source.resume([] if partition.stopped or self._is_held else [partition.number])

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
                self._check_events_log(partition)
                self._take(partition)
                self._share()

    def _share(self) -> None:
        """Let views read the partitions whose states are all here."""
        at_work = {p: each.store for p, each in self._owned.items() if each.restore is None}
        self._shared.own({p: store for p, store in at_work.items() if store is not None})

    def _hold_or_go_on(self, *, is_held: bool) -> None:
        if is_held == self._is_held:
            return
        self._is_held = is_held
        running = [p for p, each in self._owned.items() if each.restore is None and not each.stopped]
        (self._source.pause if is_held else self._source.resume)(running)

    def _check_events_log(self, partition: OwnedPartition) -> None:
        """Say in the log of states which events they are of; stop where these are others: their positions mean nothing here.

        Whoever stores a position first says so in the same transaction: where one is stored and nothing is said, the states
        are gone.
        """
        if partition.store is None or partition.stopped:
            return
        known = partition.store.events_log
        if not known and partition.is_begun:
            self.stop(
                partition.number,
                f"its states are gone: events up to {partition.stored} were taken, and {self._kafka.states_topic}, made anew, "
                "has none of them; read what the events keep again by python -m jobs.partitions --reset "
                f"{partition.number}=oldest, and load the users again (jobs.load_users) where that is not all",
            )
        elif not known:
            name = self.events_log.encode()
            record = NewRecord(self._kafka.states_topic, partition.number, EVENTS_LOG_KEY, name)
            [offset] = self._note(partition, record)
            partition.store.put_events_log(self.events_log)
            partition.store.put([], offset + 1)
        elif known != self.events_log:
            self.stop(
                partition.number,
                f"its states are of {known}, and this is {self.events_log}: if that is meant, let it go on with "
                f"python -m jobs.partitions --reset {partition.number}=oldest",
            )

    def _note(self, partition: OwnedPartition, *records: NewRecord) -> Sequence[int]:
        """Store what later owners must know beside the partition's position, and return the offsets of records with it."""
        note = partition.note(partition.gate.counted, partition.stored).to_text()
        positions = {partition.number: partition.stored}
        return self._transactions.commit(records, positions, self._source.membership(), {partition.number: note})
