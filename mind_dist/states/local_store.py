"""The states of one partition on this machine's disk (RocksDB): the log of states, compacted.

    u{user key}   position in the log of states, and the state's bytes; none where the user is forgotten
    o{position}   the user key whose newest state stands there
    m…            whose log it is, up to where it is here, of which events, and when it was at the end last

So the positions, in order, name each user once, where the user changed last: a view that has come to some position
reads on from there, and one that is new reads them all. What the log does not keep is not kept here either: the folder
can go at any time, and is made anew from the log.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rocksdict import DbClosedError, Options, Rdict, ReadOptions, WriteBatch

from mind_dist.errors import StateError
from mind_dist.log.identity import LogIdentity
from mind_dist.strict_json import to_json

_MOST_SLOTS = 64
_POSITION = b"m.position"
_IDENTITY = b"m.identity"
_EVENTS_LOG = b"m.events"
_CURRENT = b"m.current"
_TRUSTED_S = 20 * 3600.0
"""For how long a folder may have been away: brokers keep word of users who are forgotten for a day at least, and who was
forgotten meanwhile would live on here."""
_POSITIONS = struct.Struct(">q")
_TIME = struct.Struct(">d")
_SIGN = 1 << 63


class StoredState(NamedTuple):
    """A user's newest state.

    Attributes:
        position: Where it stands in the log of states.
        user_key: The user.
        value: Its bytes; empty where the user is forgotten.
    """

    position: int
    user_key: int
    value: bytes


class LocalStore:
    """The states of one partition; of one process and, but for reading, of one thread.

    Args:
        path: Its folder.
        identity: The log of states that it follows: what is there of another one is removed.
        now_s: The time of day, in seconds.

    Raises:
        StateError: Another process has the folder.
    """

    def __init__(self, path: Path, identity: LogIdentity, now_s: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._now_s = now_s
        self._use = _Use()
        self._db = _open(path)
        self._whose = to_json(identity.to_json()).encode()
        known = self._db.get(_IDENTITY)
        if known is None:
            self._db.put(_IDENTITY, self._whose)
        elif known != self._whose:
            self.clear()

    @classmethod
    def in_free_slot(cls, folder: Path, partition: int, identity: LogIdentity) -> LocalStore:
        """Open the first folder of a partition that nobody has: a frozen owner may hold one still."""
        for slot in range(_MOST_SLOTS):
            try:
                return cls(folder / f"partition-{partition:05d}.{slot}", identity)
            except StateError as error:
                problem = error
        raise problem

    def clear(self) -> None:
        """Forget all: the log is to be read from its beginning."""
        with self._use.nobody():
            self._db.close()
            Rdict.destroy(str(self._path))
            self._db = _open(self._path)
            self._db.put(_IDENTITY, self._whose)

    @property
    def position(self) -> int:
        """Where to go on in the log of states: what stands below is here."""
        with self._in_use():
            found = self._db.get(_POSITION)
        return _POSITIONS.unpack(found)[0] if found else 0

    def get(self, user_keys: Sequence[int]) -> list[StoredState | None]:
        """Return the users' newest states, in their order; None for a user who never had one."""
        found = self._values(user_keys)
        return [_stored(key, value) for key, value in zip(user_keys, found, strict=True)]

    @property
    def events_log(self) -> str:
        """Which log of events the states are of; empty where that was never said."""
        found = self._db.get(_EVENTS_LOG)
        return found.decode() if found else ""

    def put_events_log(self, name: str) -> None:
        """Keep which log of events the states are of from here on."""
        self._db.put(_EVENTS_LOG, name.encode())

    def is_trusted(self) -> bool:
        """Tell whether the log still tells all that has happened since this was at its end."""
        found = self._db.get(_CURRENT)
        return not self.position or (found is not None and self._now_s() - _TIME.unpack(found)[0] < _TRUSTED_S)

    def note_current(self) -> None:
        """Keep that all of the log is here now."""
        self._db.put(_CURRENT, _TIME.pack(self._now_s()))

    def put(self, states: Sequence[StoredState], position: int) -> None:
        """Store states, each newer than what there is of its user, and where the log goes on behind them."""
        newest = {each.user_key: each for each in states}
        before = self._values(list(newest))
        batch = WriteBatch(raw_mode=True)
        for (user_key, state), old in zip(newest.items(), before, strict=True):
            if old is not None:
                batch.delete(b"o" + old[:8])
            place = _POSITIONS.pack(state.position)
            batch.put(_user(user_key), place + state.value)
            batch.put(b"o" + place, _user(user_key)[1:])
        batch.put(_POSITION, _POSITIONS.pack(position))
        self._db.write(batch)

    def changed_from(self, position: int, count: int) -> list[StoredState]:
        """Return up to `count` users in the order in which they changed last, from a position of the log on."""
        places: list[tuple[int, int]] = []
        with self._in_use():
            found = self._db.iter(ReadOptions())
            found.seek(b"o" + _POSITIONS.pack(position))
            while found.valid() and len(places) < count and found.key()[:1] == b"o":
                places.append((_POSITIONS.unpack(found.key()[1:])[0], _user_key(found.value())))
                found.next()
        states = self.get([user_key for _, user_key in places])
        # one that moved on while this read is met again at its new place
        return [
            state
            for (place, _), state in zip(places, states, strict=True)
            if state is not None and state.position == place
        ]

    def user_keys(self) -> Iterator[int]:
        """Yield every user with a state, forgotten ones too, by key."""
        found = self._db.iter(ReadOptions())
        found.seek(b"u")
        while found.valid() and found.key()[:1] == b"u":
            yield _user_key(found.key()[1:])
            found.next()

    def _values(self, user_keys: Sequence[int]) -> Sequence[bytes | None]:
        with self._in_use():
            found: Any = self._db.get([_user(key) for key in user_keys]) if user_keys else []
            return list(found)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Say by our own error that the partition has gone meanwhile; it does not go while this lasts."""
        try:
            with self._use.one():
                yield
        except DbClosedError as error:
            raise StateError(f"{self._path}: closed, the partition has moved on") from error

    def close(self) -> None:
        """Leave the folder, when nobody reads any more."""
        with self._use.nobody():
            self._db.close()


class _Use:
    """Who reads: RocksDB's client lets nobody close it while another thread uses it, and would end either by its own error."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_wanted = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Be one of those who read; never within another such."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_wanted)
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    @contextmanager
    def nobody(self) -> Iterator[None]:
        """Wait until nobody reads, and let nobody begin to."""
        with self._changed:
            self._is_wanted = True
            try:
                self._changed.wait_for(lambda: not self._count)
                yield
            finally:
                self._is_wanted = False
                self._changed.notify_all()


def _open(path: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    try:
        return Rdict(str(path), options)
    except Exception as error:
        if "LOCK" in str(error):
            raise StateError(f"{path}: another process has it") from error
        raise StateError(
            f"{path}: cannot be opened: {error}; remove the folder, it is made anew from the log"
        ) from error


def _user(user_key: int) -> bytes:
    return b"u" + struct.pack(">Q", user_key + _SIGN)


def _user_key(key: bytes) -> int:
    unsigned: int = struct.unpack(">Q", key)[0]
    return unsigned - _SIGN


def _stored(user_key: int, value: bytes | None) -> StoredState | None:
    return None if value is None else StoredState(_POSITIONS.unpack(value[:8])[0], user_key, value[8:])
