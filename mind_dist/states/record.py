"""A user's state, and the bytes that the log of states and the local stores have of it.

    byte 0   version of this layout
    then     a zstd frame: lengths, names of the kept features, the profile as JSON, and one packed column each for items,
             steps of the times and every feature's dictionary and codes

A packed column is as narrow as its values are: the least of them, and the distances to it in 0, 1, 2, 4 or 8 bytes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import zstandard

from mind_dist.errors import StateError
from mind_dist.records import BehaviorSequence, KeyRows, Keys

FORMAT_VERSION = 1
_FORMAT = bytes([FORMAT_VERSION])

_HEAD = struct.Struct("<qqIHI")
_COLUMN = struct.Struct("<Bq")
_WIDTHS: tuple[tuple[int, type[np.unsignedinteger[Any]]], ...] = (
    (1, np.uint8),
    (2, np.uint16),
    (4, np.uint32),
    (8, np.uint64),
)
_TYPES = dict(_WIDTHS)
_LEVEL = 3
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UserState:
    """All that is known of a user, whatever a model reads of it.

    Attributes:
        history: The newest behaviors, with one key of each kept feature (`behavior_keys`); no profile and no context.
        profile: Raw profile values by name.
        next_offset: Records of the user's partition below it are in this state.
        log_key: Fingerprint of the log of events that the position belongs to.
    """

    history: BehaviorSequence
    profile: Mapping[str, Any] = field(default_factory=dict)
    next_offset: int = 0
    log_key: int = 0

    @property
    def user_key(self) -> int:
        """The user."""
        return self.history.user_key


def encode_state(state: UserState, features: Sequence[str]) -> bytes:
    """Return a state's bytes.

    Args:
        state: The state.
        features: Names of the kept features, one a column of `behavior_keys`.
    """
    history = state.history
    names = "\x1f".join(features).encode()
    profile = orjson.dumps(dict(state.profile), option=orjson.OPT_SORT_KEYS)
    times = history.timestamps_ms
    parts = [
        _HEAD.pack(state.log_key, state.next_offset, len(history), len(names), len(profile)),
        names,
        profile,
        *_packed(history.item_keys),
        *_packed(times[:1]),
        *_packed(times[1:] - times[:-1]),
    ]
    shape = len(history), len(features)  # a user without behaviors may come without columns, too
    kinds = history.behavior_keys if history.behavior_keys.shape == shape else np.zeros(shape, dtype=np.int64)
    for column in range(len(features)):
        dictionary, codes = _coded(kinds[:, column])
        parts += [struct.pack("<I", len(dictionary)), *_packed(dictionary), *_packed(codes)]
    return _FORMAT + _CONTEXTS.compressor.compress(b"".join(parts))


def decode_state(user_key: int, value: bytes, features: Sequence[str]) -> UserState:
    """Return the state that some bytes tell.

    Args:
        user_key: Whose it is.
        value: What `encode_state` gave, maybe for other features.
        features: Names of the features wanted: those that were not kept then are missing, and others left out.

    Raises:
        StateError: The bytes are of a newer version, or damaged.
    """
    if value[:1] != _FORMAT:
        raise StateError(
            f"user {user_key}: the state has format {value[0] if value else 'none'}, this is {FORMAT_VERSION}"
        )
    try:
        return _Reader(_CONTEXTS.decompressor.decompress(value[1:], _MOST_BYTES)).state(user_key, features)
    except (zstandard.ZstdError, struct.error, ValueError, IndexError) as error:
        raise StateError(f"user {user_key}: the state cannot be read: {error}") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def state(self, user_key: int, features: Sequence[str]) -> UserState:
        log_key, next_offset, length, names_bytes, profile_bytes = _HEAD.unpack_from(self._data)
        self._at = _HEAD.size
        text = self._take(names_bytes).decode()
        names = text.split("\x1f") if text else []
        profile = orjson.loads(self._take(profile_bytes))
        items = self._column(length)
        first = self._column(min(length, 1))
        times = np.cumsum(np.concatenate([first, self._column(max(0, length - 1))]))
        found = {name: self._codes(length) for name in names}
        rows = _rows(found, features, length)
        return UserState(BehaviorSequence(user_key, items, times, behavior_keys=rows), profile, next_offset, log_key)

    def _codes(self, length: int) -> Keys:
        (count,) = struct.unpack("<I", self._take(4))
        dictionary, codes = self._column(count), self._column(length)
        return dictionary.repeat(length) if count == 1 else dictionary[codes]

    def _column(self, length: int) -> Keys:
        width, least = _COLUMN.unpack(self._take(_COLUMN.size))
        if not width:
            return np.full(length, least, dtype=np.int64)
        values = np.frombuffer(self._take(width * length), dtype=_TYPES[width]).astype(np.uint64)
        values += np.uint64(least & 0xFFFF_FFFF_FFFF_FFFF)
        return values.view(np.int64)

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise ValueError(f"{count} bytes expected, {len(taken)} there")
        self._at += count
        return taken


class _Zstd(threading.local):
    """A thread's contexts: each takes longer to make than a state to be compressed, and is of one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_CONTEXTS = _Zstd()


def _coded(values: Keys) -> tuple[Keys, Keys]:
    """Return the distinct values, ascending, and for each value which of them it is; most users have but one."""
    if len(values) and bool((values == values[0]).all()):
        return values[:1], np.zeros(len(values), dtype=np.int64)
    dictionary, codes = np.unique(values, return_inverse=True)
    return dictionary, codes.astype(np.int64)


def _packed(values: Keys) -> Iterator[bytes]:
    if len(values) <= 1:
        yield _COLUMN.pack(0, int(values[0]) if len(values) else 0)
        return
    least = int(np.minimum.reduce(values))
    most = int(np.maximum.reduce(values)) - least
    if not most:
        yield _COLUMN.pack(0, least)
        return
    width, kind = next(each for each in _WIDTHS if most < 1 << 8 * each[0])
    yield _COLUMN.pack(width, least)
    yield (values.view(np.uint64) - np.uint64(least & 0xFFFF_FFFF_FFFF_FFFF)).astype(kind).tobytes()


def _rows(found: Mapping[str, Keys], features: Sequence[str], length: int) -> KeyRows:
    """Return one column for each feature wanted."""
    if not features:
        return np.empty((length, 0), dtype=np.int64)
    rows = np.zeros((length, len(features)), dtype=np.int64)
    for column, name in enumerate(features):
        if name in found:
            rows[:, column] = found[name]
    return rows
