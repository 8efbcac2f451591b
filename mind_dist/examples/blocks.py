"""A bucket's blocks → windows of its users, one block in memory at a time, and the next one on its way.

A bucket with n windows is a log of epochs · n examples. In an epoch its blocks come in an order of their own, and the
windows of a block in one of theirs; both depend on seed, epoch, bucket and block alone. So a position says which
examples come next, whoever reads them and wherever reading began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.dataset.bucket_file import BucketFile
from mind_dist.dataset.event_values import event_keys
from mind_dist.examples.source import Examples, Mask
from mind_dist.keys import EventFeatures
from mind_dist.records import KeyRows, Keys

_ORDER_OF_BLOCKS = (1 << 32) - 1
"""Stands where the generator of a block's windows has the block's number."""


@dataclass(frozen=True)
class Windowing:
    """How windows are laid into histories.

    Attributes:
        max_behaviors: Longest history L.
        num_targets: Most targets T of an example.
        stride: Behaviors for each of which there is a window.
        features: What is read of each event.
        profiles: Profile keys of users, [U, P].
    """

    max_behaviors: int
    num_targets: int
    stride: int
    features: EventFeatures
    profiles: Callable[[Keys], Keys]

    def count(self, lengths: Keys) -> int:
        """Return how many windows users of these numbers of behaviors have."""
        return int((-(-(lengths - 1) // self.stride)).clip(min=0).sum())


@dataclass(frozen=True, slots=True)
class Block:
    """The users of one block, flat.

    Attributes:
        items: Item keys of all users, one after the other, [E].
        timestamps_ms: Their times, [E].
        offsets: Where each user's behaviors start, [U + 1].
        windows: Index of the first target of every example, [n].
        profile: Profile keys of each user, [U, P].
        behavior_keys: Features of the behaviors, [E, F].
        moment_keys: Contexts in which they happened, [E, C].
    """

    items: Keys
    timestamps_ms: Keys
    offsets: Keys
    windows: Keys
    profile: Keys
    behavior_keys: KeyRows
    moment_keys: KeyRows

    @classmethod
    def of(cls, table: pa.Table, windowing: Windowing) -> Block:
        """Return the users of a table."""
        lengths = pc.list_value_length(table["item_ids"]).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        from_last = np.repeat(offsets[1:], lengths) - 1 - np.arange(offsets[-1])
        starts_user = np.zeros(offsets[-1] + 1, dtype=np.bool_)
        starts_user[offsets] = True
        profile = windowing.profiles(table["user_id"].to_numpy())
        windows = np.flatnonzero(~starts_user[:-1] & (from_last % windowing.stride == 0))
        keys = event_keys(table, windowing.features)
        return cls(_flat(table["item_ids"]), _flat(table["timestamps_ms"]), offsets, windows, profile, *keys)

    def ordered(self, windowing: Windowing, generator: np.random.Generator) -> Keys:
        """Return an epoch's windows in its order: where they lie, if they are not everywhere, and who comes when."""
        order = generator.permutation(len(self.windows))
        if windowing.stride == 1:
            return self.windows[order]
        longest = windowing.max_behaviors
        drawn = self._cover(longest, generator) if windowing.stride == longest else self._draw(longest, generator)
        return drawn[order]

    def _draw(self, max_behaviors: int, generator: np.random.Generator) -> Keys:
        """Return a window of the same user for each, anywhere where it is full, or the fullest there is."""
        users = np.searchsorted(self.offsets, self.windows, side="right") - 1
        last = self.offsets[users + 1] - 1
        first = np.minimum(self.offsets[users] + max_behaviors, last)
        return first + (generator.random(len(users)) * (last - first + 1)).astype(np.int64)

    def _cover(self, length: int, generator: np.random.Generator) -> Keys:
        """Return windows that follow each other, and overlap where they have room, at random.

        A user's k-th of K windows has its first target at k · length, less what the windows up to it overlap or lack:
        sorted random numbers up to K · length less the behaviors to cover, which it is for the last window.
        """
        users = np.searchsorted(self.offsets, self.windows, side="right") - 1
        starts_user = np.append(True, users[1:] != users[:-1])[: len(users)]
        ranks = 1 + np.arange(len(users)) - np.maximum.accumulate(np.where(starts_user, np.arange(len(users)), 0))
        is_last = np.append(starts_user[1:], True)[: len(users)]
        room = -(self.offsets[users + 1] - self.offsets[users] - 1) % length
        shifts = (generator.random(len(users)) * (room + 1)).astype(np.int64)
        shifts = np.where(is_last, room, shifts[np.lexsort((shifts, users))])
        return np.asarray(self.offsets[users] + ranks * length - shifts, dtype=np.int64)

    def examples(self, windows: Keys, windowing: Windowing) -> Examples:
        """Return the examples whose first targets are at `windows`."""
        users = np.searchsorted(self.offsets, windows, side="right") - 1
        first = np.maximum(self.offsets[users], windows - windowing.max_behaviors)
        seen, is_seen = self._places(first, windows, windowing.max_behaviors)
        following, follows = self._places(windows, self.offsets[users + 1], windowing.num_targets)
        return Examples(
            np.where(is_seen, self.items[seen], 0),
            is_seen,
            np.where(follows, self.items[following], 0),
            follows,
            self.profile[users],
            self.timestamps_ms[windows + follows.sum(axis=1) - 1],
            np.where(is_seen[:, :, None], self.behavior_keys[seen], 0),
            self.moment_keys[seen],
            self.moment_keys[following],
        )

    def _places(self, first: Keys, stop: Keys, width: int) -> tuple[Keys, Mask]:
        """Return the first `width` places of each range, any where it ends before, and which of them are real."""
        at = first[:, None] + np.arange(width)
        return np.minimum(at, max(0, len(self.items) - 1)), at < stop[:, None]


class _Place(NamedTuple):
    """A block in one of the epochs.

    Attributes:
        epoch: The epoch.
        turn: Which of its blocks it is, in the epoch's order.
        block: The block.
    """

    epoch: int
    turn: int
    block: int


@dataclass
class _AtHand:
    """A block that is being taken from.

    Attributes:
        place: Which it is.
        block: Its users.
        windows: Its windows in the epoch's order.
    """

    place: _Place
    block: Block
    windows: Keys


class BucketLog:
    """The examples of a bucket by position, every epoch of them one after the other.

    Args:
        file: The bucket.
        number: Its number.
        windowing: How windows are laid.
        epochs: Passes over the bucket.
        seed: Seed of orders and windows.
        reader: Reads the next block while the one at hand is taken from.

    Raises:
        DatasetError: The file is torn; `read` raises it, too.
    """

    def __init__(
        self, file: BucketFile, number: int, windowing: Windowing, *, epochs: int, seed: int, reader: Executor
    ) -> None:
        self._file = file
        self._number = number
        self._windowing = windowing
        self._epochs = epochs
        self._seed = seed
        self._reader = reader
        self._counts = np.array([windowing.count(file.lengths(block)) for block in range(file.num_blocks)])
        self._order: tuple[int, Keys] = (-1, np.zeros(0, np.int64))
        self._at_hand: _AtHand | None = None
        self._coming: tuple[int, Future[Block]] | None = None

    @property
    def end(self) -> int:
        """The position after the last example of the last epoch."""
        return self._epochs * int(self._counts.sum())

    def read(self, position: int, stop: int) -> Examples:
        """Return the examples from a position to another one."""
        chunks = [*self._chunks(position, stop)]
        return Examples.concatenate(chunks) if chunks else self._nothing()

    def close(self) -> None:
        """Close the file, once nothing is read from it any more."""
        if self._coming is not None and not self._coming[1].cancel():
            self._coming[1].exception()
        self._file.close()

    def _chunks(self, position: int, stop: int) -> Iterator[Examples]:
        """Yield the examples of each block."""
        while position < stop:
            place, first = self._place(position)
            at_hand = self._take_at_hand(place)
            taken = at_hand.windows[first : first + stop - position]
            yield at_hand.block.examples(taken, self._windowing)
            position += len(taken)
            if 2 * (first + len(taken)) >= len(at_hand.windows):
                self._read_ahead(place)

    def _place(self, position: int) -> tuple[_Place, int]:
        """Return the block that a position is in, and which of its windows it is."""
        epoch, within = divmod(position, int(self._counts.sum()))
        blocks = self._blocks(epoch)
        ends = np.cumsum(self._counts[blocks])
        turn = int(np.searchsorted(ends, within, side="right"))
        return _Place(epoch, turn, int(blocks[turn])), int(within - ends[turn] + self._counts[blocks[turn]])

    def _blocks(self, epoch: int) -> Keys:
        """Return the blocks that have windows in an epoch's order."""
        if self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch, self._number, _ORDER_OF_BLOCKS])
            self._order = (epoch, generator.permutation(np.flatnonzero(self._counts)))
        return self._order[1]

    def _take_at_hand(self, place: _Place) -> _AtHand:
        """Return a block in its epoch's order, the one at hand or another."""
        if self._at_hand is None or self._at_hand.place != place:
            block = self._block(place.block)
            generator = np.random.default_rng([self._seed, place.epoch, self._number, place.block])
            self._at_hand = _AtHand(place, block, block.ordered(self._windowing, generator))
        return self._at_hand

    def _block(self, number: int) -> Block:
        """Return a block: the one at hand, the one that is coming, or one that is read now."""
        if self._at_hand is not None and self._at_hand.place.block == number:
            return self._at_hand.block
        self._at_hand = None  # it is not kept while another one is waited for
        if self._coming is None or self._coming[0] != number:
            self._coming = (number, self._reader.submit(self._read, number))
        coming, self._coming = self._coming[1], None
        return coming.result()

    def _read_ahead(self, place: _Place) -> None:
        """Begin to read the block after one that is at hand, if it is another one and there is one."""
        if self._coming is not None:
            return
        blocks = self._blocks(place.epoch)
        if place.turn + 1 < len(blocks):
            number = int(blocks[place.turn + 1])
        elif len(blocks) > 1 and place.epoch + 1 < self._epochs:
            number = int(self._blocks(place.epoch + 1)[0])
        else:
            return
        if number != place.block:
            self._coming = (number, self._reader.submit(self._read, number))

    def _read(self, number: int) -> Block:
        return Block.of(self._file.read(number), self._windowing)

    def _nothing(self) -> Examples:
        windowing, num_profile_features = self._windowing, self._windowing.profiles(np.zeros(0, np.int64)).shape[1]
        return Examples.none(
            windowing.max_behaviors, windowing.num_targets, num_profile_features, features=windowing.features
        )


def _flat(column: pa.ChunkedArray) -> Keys:
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.int64)
