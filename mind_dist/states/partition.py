"""One partition in its owner's hands: being restored, at work, or stopped; and what its views read.

One that was added to the events has no states: nobody is at home in it (`mind_dist.states.homes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mind_dist.errors import PositionLost
from mind_dist.log.codec import PoisonGate
from mind_dist.log.source import EventSource
from mind_dist.records import Record
from mind_dist.states.local_store import LocalStore, StoredState
from mind_dist.states.note import Note

EVENTS_LOG_KEY = b"events-log"
"""Key of the record in each partition of the log of states that names the log of events that they are of."""

OpenReader = Callable[[int], EventSource]
"""Opens a reader of one partition of the log of states."""


@dataclass
class Restore:
    """The log of states being read into a local store.

    Attributes:
        reader: Of the partition's log of states.
        end: Up to where it is read.
    """

    reader: EventSource
    end: int


@dataclass
class OwnedPartition:
    """A partition and its states.

    Attributes:
        number: Which.
        store: Its states on this machine; None of a partition without.
        gate: Counts its poison.
        restore: What is still to be read of its states; None at work.
        stopped: Why nothing of it is taken until an operator acts; empty otherwise.
        is_noted: The log has kept why it stopped: where that is gone, an operator has let it go on.
        stored: The position of its events that the group has stored, or, where it has none, at which it begins.
        is_begun: Whether the group has stored one.
        forgiven_to: Poison below this position of its events does not count.
    """

    number: int
    store: LocalStore | None
    gate: PoisonGate = field(default_factory=lambda: PoisonGate(1.0, 1))
    restore: Restore | None = None
    stopped: str = ""
    is_noted: bool = False
    stored: int = 0
    is_begun: bool = False
    forgiven_to: int = 0

    def note(self, counted: tuple[int, int], position: int) -> Note:
        """Return what the next owner must know, who goes on at a position."""
        return Note(counted, self.stopped, self.forgiven_to if position < self.forgiven_to else 0)

    def begin_restore(self, open_reader: OpenReader) -> None:
        """Go on from where the local store is, up to behind all that the log of states has now.

        The input's position must have been read before: a transaction that ends between the two is then read here,
        and its input comes again and is skipped. Transactions under way are waited for: a group's positions may show
        a moment before the states that were written with them.
        """
        self.end_restore()
        if self.store is None:
            return
        if not self.store.is_trusted():
            self.store.clear()
        reader = open_reader(self.number)
        reader.seek({self.number: self.store.position})
        self.restore = Restore(reader, reader.written_positions()[self.number])

    def advance_restore(self, timeout_s: float) -> bool:
        """Read some more, and tell whether all is read.

        Raises:
            PositionLost: The log of states does not keep the local store's position; the store is cleared, and the next call
                begins at its oldest record.
            ServiceUnavailable: The log did not answer in time.
        """
        if self.restore is None or self.store is None:
            return True
        reader, end = self.restore.reader, self.restore.end
        if reader.position()[self.number] < end:
            try:
                records = reader.poll(timeout_s)
            except PositionLost as error:
                self.store.clear()
                reader.seek({self.number: error.oldest})
                raise
            for record in records:
                if record.key == EVENTS_LOG_KEY:
                    self.store.put_events_log((record.value or b"").decode())
            states = [_stored(record) for record in records if record.key != EVENTS_LOG_KEY]
            self.store.put(states, reader.position()[self.number])
        if reader.position()[self.number] < end:
            return False
        self.store.note_current()
        self.end_restore()
        return True

    def end_restore(self) -> None:
        """Leave the log of states."""
        if self.restore is not None:
            self.restore.reader.close()
            self.restore = None

    def close(self) -> None:
        """Leave the log of states and the local store."""
        if self.store is not None:
            if self.restore is None:
                self.store.note_current()  # while it was ours nobody else wrote
            self.store.close()
        self.end_restore()


def _stored(record: Record) -> StoredState:
    return StoredState(record.offset, int(record.key or b"0"), record.value or b"")
