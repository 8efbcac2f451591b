"""Keys → trainable rows: the one large thing in a model, dealt out to all ranks.

Every item, side feature and profile feature value is a row of one table. A row lives at one rank, which follows from its
key, with its optimizer state. A step fetches the rows it needs from where they live, and sends their gradients back there:
what travels follows the distinct keys of a batch, whatever the size of the table and the number of ranks.

A row's first value depends on the seed and its key alone. So it is the same wherever and whenever the key is first looked
up, and until then nothing of the row need exist.

Every rank knows all keys and how often each was seen, an eighth of what a row takes: that is what negatives are drawn by
and corrected with, and so none of it has to be asked for, and a draw does not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.checkpoint import SightingCounts, TableRows
from mind_dist.keys import partition_of
from mind_dist.records import Keys
from mind_dist.training.collectives import Collectives, SingleRank
from mind_dist.training.draws import EVENLY, DrawLaw, ItemDraws
from mind_dist.training.key_route import KeyRoute
from mind_dist.training.live_draws import LiveDraws
from mind_dist.training.sightings import Sightings, grown
from mind_dist.training.sparse_rows import AdamRows, initial_rows

_NONE = -1
"""Place of the row of a key that has none."""
_NOT_HERE = -2
"""Place of a row that nobody has looked up yet, or that lives at another rank."""
_FORGETS_PER_KEEP = 8
"""How often in the time for which items are kept those are looked for that were not seen for so long: a pass over all."""
_SAVED_AT_ONCE = 1 << 16
"""Rows that are copied out of the table at a time."""


class _LookedUp(NamedTuple):
    """What the gradients of a lookup need to find their rows.

    Attributes:
        leaf: What was given out, [U, R].
        route: Where its rows live.
        asked: Rows of this rank that were asked for, those of the first rank first.
    """

    leaf: Tensor
    route: KeyRoute
    asked: Keys


class ItemTable:
    """Rows by key. Methods that say *collective* are called by all ranks together, with keys of their own.

    All others are to be called alike on all ranks, as far as they change something.

    Args:
        dim: Width R of a row.
        seed: Seed of the rows' first values.
        admission_count: An item gets a row when it was seen this often.
        keep_ms: An item that was not seen for so long is forgotten, row, count and all; 0 for never.
        one_second_moment: Keep one second moment a row: see `AdamRows`.
        collectives: The other ranks.
        device: Where the rows live; keys and counts stay on the CPU.
    """

    def __init__(
        self,
        dim: int,
        *,
        seed: int = 0,
        admission_count: int = 1,
        keep_ms: int = 0,
        one_second_moment: bool = False,
        collectives: Collectives | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._dim = dim
        self._seed = seed
        self._admission_count = admission_count
        self._keep_ms = keep_ms
        self._ranks = collectives or SingleRank()
        self._seen = Sightings()
        self._places = np.empty(0, dtype=np.int64)  # of a key's row, by the key's number; the last is nobody's
        self._rows = AdamRows(dim, torch.device(device), one_second_moment=one_second_moment)
        self._item_keys: Keys | None = None
        self._is_live = False
        self._looked_up: _LookedUp | None = None
        self._drawn_from: ItemDraws | LiveDraws | None = None

    @property
    def num_items(self) -> int:
        """Items that have a row."""
        return len(self.all_items())

    def add_features(self, keys: Keys) -> None:
        """Give feature keys a row each; the same keys on all ranks."""
        self._give_rows(np.unique(keys))

    def set_counts(self, keys: Keys, counts: Keys, seen_ms: int) -> None:
        """Set how often items were seen, and give those seen often enough a row; the same on all ranks."""
        self._seen.set(keys, counts, seen_ms)
        self._admit(keys)
        self._drawn_from = None

    def set_vectors(self, keys: Keys, vectors: Float[Tensor, "U R"]) -> None:
        """Replace the rows of distinct, ascending keys, as far as they have one; the same on all ranks."""
        mine = np.flatnonzero(self.has(keys) & self._is_mine(keys))
        places = self._made(keys[mine])
        _, first, second, steps = self._rows.read(places)
        self._rows.write(places, vectors[torch.from_numpy(mine)].numpy(), first, second, steps)

    def observe(self, keys: Keys, seen_ms: int) -> None:
        """Count sightings of items, give those seen often enough a row, and forget those not seen for long. Collective.

        Args:
            keys: One for each sighting, repeated as often as it was seen.
            seen_ms: When the newest of them was.
        """
        sightings = torch.from_numpy(np.append(keys, seen_ms))
        gathered = [part.numpy() for part in self._ranks.gather(sightings)]
        distinct, counts = np.unique(np.concatenate([part[:-1] for part in gathered]), return_counts=True)
        before_ms = self._seen.newest_ms
        self._seen.add(distinct, counts, max(int(part[-1]) for part in gathered))
        self._admit(distinct)
        if self._keep_ms:
            self._forget_old(before_ms)
        if isinstance(self._drawn_from, LiveDraws):
            items = distinct[self.has(distinct)]
            self._drawn_from.update(items, self._seen.of(items)[0])
        else:
            self._is_live, self._drawn_from = True, None

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which keys have a row, at whatever rank."""
        return np.asarray(self._find(keys)[1] != _NONE)

    def counts(self, keys: Keys) -> Keys:
        """Return how often items were seen."""
        return self._seen.of(keys)[0]

    def is_forgotten(self, seen_ms: int) -> bool:
        """Tell whether an item is forgotten by now that was seen then for the last time."""
        return bool(self._keep_ms) and seen_ms < self._seen.newest_ms - self._keep_ms

    def sighting_shares(self, keys: Keys) -> NDArray[np.float64]:
        """Return each item's share of all sightings; for one without a row, that of a single sighting."""
        counts, _ = self._seen.of(keys)
        return np.maximum(counts, 1) / max(1, self._seen.total)

    def sample_items(self, count: int, generator: np.random.Generator, law: DrawLaw = EVENLY) -> Keys:
        """Return `count` items drawn with replacement from those with a row; none where there are none.

        Args:
            count: Draws.
            generator: Where chance comes from.
            law: How often each is drawn.
        """
        return self._draws(law).sample(count, generator)

    def draw_shares(self, keys: Keys, law: DrawLaw = EVENLY) -> NDArray[np.float64]:
        """Return the probability that one draw of `sample_items` is each item; 0 for one without a row."""
        if (
            law == EVENLY and not self._is_live
        ):  # items are found among millions faster by their numbers than in their order
            is_item = self.has(keys) & (self._seen.of(keys)[0] > 0)
            return np.asarray(is_item / max(1, self.num_items))
        return self._draws(law).shares(keys)

    def all_items(self) -> Keys:
        """Return every item that has a row, ascending."""
        if self._item_keys is None:
            keys = self._seen.keys
            self._item_keys = keys[self.has(keys) & (self._seen.of(keys)[0] > 0)]
        return self._item_keys

    def lookup(self, keys: Keys, also: Sequence[float] = ()) -> tuple[Float[Tensor, "U R"], list[float]]:
        """Return the rows of distinct keys that have one, as a leaf that takes gradients, and sums over ranks. Collective.

        Args:
            keys: This rank's, [U].
            also: Numbers to be summed over the ranks on the way.
        """
        route, sums = KeyRoute.of(keys, self._ranks, also)
        asked = self._made(route.received)
        leaf = route.fetched(self._rows.vectors(asked)).requires_grad_()
        self._looked_up = _LookedUp(leaf, route, asked)
        return leaf, sums

    def apply_gradients(self, learning_rate: float, young_learning_rate: float = 0.0) -> None:
        """Update the rows of the last lookup with their gradients, averaged over all ranks. Collective.

        For the two rates see `AdamRows.update`.

        Call it straight after a call in which the ranks learn of each other that all are well.
        """
        assert self._looked_up is not None, "look rows up first"
        leaf, route, asked = self._looked_up
        self._looked_up = None
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        places, total = _summed(torch.from_numpy(asked), route.brought(gradient), route.lengths_received)
        self._rows.update(places, total / self._ranks.world_size, learning_rate, young_learning_rate)

    def own_rows(self) -> Iterator[TableRows]:
        """Yield the rows that live here, some at a time, ascending; but those neither looked up, replaced nor seen.

        One part is there at least, of no rows where there are none.
        """
        keys = self._seen.keys
        for start in range(0, max(1, len(keys)), _SAVED_AT_ONCE):
            part = keys[start : start + _SAVED_AT_ONCE]
            part = part[self.has(part) & self._is_mine(part)]
            counts, last_seen_ms = self._seen.of(part)
            kept = (counts > 0) | (self._find(part)[1] >= 0)
            yield self._rows_of(part[kept], counts[kept], last_seen_ms[kept])

    def all_rows(self) -> TableRows:
        """Return what all ranks' `own_rows` yield together, ascending. Collective."""
        own = TableRows.concatenate([*self.own_rows()])
        parts = [self._ranks.gather(torch.from_numpy(column)) for column in vars(own).values()]
        whole = TableRows(*(torch.cat(part).numpy() for part in parts))
        return whole.take(np.argsort(whole.keys))

    def load(self, rows: TableRows) -> None:
        """Take over rows, replacing those with the same keys; the same on all ranks, of which each keeps its own."""
        seen = rows.counts > 0
        self._seen.set(rows.keys[seen], rows.counts[seen], rows.last_seen_ms[seen])
        self._give_rows(rows.keys)
        mine = rows.take(np.flatnonzero(self._is_mine(rows.keys)))
        places = self._made(mine.keys)
        self._rows.write(places, mine.vectors, mine.first_moment, mine.second_moment, mine.steps)
        self._item_keys = self._drawn_from = None

    def waiting(self) -> SightingCounts:
        """Return the items that were seen too seldom to have a row, of those whose row would live here; ascending."""
        keys = self._seen.keys
        keys = keys[self._is_mine(keys) & ~self.has(keys) & (self._seen.of(keys)[0] > 0)]
        return SightingCounts(keys, *self._seen.of(keys))

    def load_waiting(self, sightings: SightingCounts) -> None:
        """Take over sightings of items without a row; the same on all ranks."""
        self._seen.set(*sightings)
        self._admit(sightings.keys)
        self._drawn_from = None

    def _forget_old(self, before_ms: int) -> None:
        """Forget what was not seen for long, where time has passed another of the marks that there are for it.

        When that is follows from the sightings alone, so that a run that was resumed does the same.
        """
        every_ms = max(1, self._keep_ms // _FORGETS_PER_KEEP)
        mark = self._seen.newest_ms // every_ms
        if not before_ms or mark == before_ms // every_ms:
            return
        old = self._seen.not_seen_since(mark * every_ms - self._keep_ms)
        if not len(old):
            return
        kept = self._seen.forget(old)
        places = self._places[kept]
        has_row = places >= 0
        in_order = np.argsort(places[has_row])
        self._rows.keep(places[has_row][in_order])
        places[np.flatnonzero(has_row)[in_order]] = np.arange(len(in_order))
        self._places = np.append(places, _NONE)
        self._item_keys = self._drawn_from = None

    def _draws(self, law: DrawLaw) -> ItemDraws | LiveDraws:
        """Return what drawing needs; where counts change with every step, it follows them, as far as the law lets it."""
        is_followed = self._is_live and law.distribution == "counts"
        if self._drawn_from is None or self._drawn_from.law != law:
            items = self.all_items()
            counts = items[:0] if law == EVENLY and not is_followed else self._seen.of(items)[0]
            made = LiveDraws(law, items, counts) if is_followed else ItemDraws(items, counts, law)
            self._drawn_from = made
        return self._drawn_from

    def _is_mine(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which keys have their row at this rank, if they have one."""
        if self._ranks.world_size == 1:
            return np.ones(len(keys), dtype=np.bool_)
        return np.asarray(partition_of(keys, self._ranks.world_size) == self._ranks.rank)

    def _admit(self, keys: Keys) -> None:
        """Give those of some items whose counts have changed, and that were seen often enough, a row."""
        counts, _ = self._seen.of(keys)
        admitted = keys[(counts >= self._admission_count) & ~self.has(keys)]
        if len(admitted):
            self._give_rows(admitted)

    def _find(self, keys: Keys) -> tuple[Keys, Keys]:
        """Return keys' numbers, and the places of their rows."""
        if len(self._places) <= len(self._seen):
            self._places = grown(self._places, len(self._seen) + 1, _NONE)
        numbers = self._seen.find(keys)
        return numbers, self._places[numbers]  # of what is not known, and has the number -1, nobody's

    def _give_rows(self, keys: Keys) -> None:
        """Let distinct keys have a row where they have none."""
        self._seen.place(keys)
        numbers, places = self._find(keys)
        self._places[numbers[places == _NONE]] = _NOT_HERE
        self._item_keys = None

    def _made(self, keys: Keys) -> Keys:
        """Return the places of rows that live here, after making those that nobody has looked up yet."""
        numbers, places = self._find(keys)
        assert (places != _NONE).all(), "look up keys that have a row"
        new = places == _NOT_HERE
        if not new.any():
            return places
        fresh, first = np.unique(numbers[new], return_index=True)
        self._places[fresh] = np.arange(len(self._rows), len(self._rows) + len(fresh))
        self._rows.append(initial_rows(keys[new][first], self._dim, self._seed))
        return self._places[numbers]

    def _rows_of(self, keys: Keys, counts: Keys, last_seen_ms: Keys) -> TableRows:
        """Return rows that live here; those that nobody has looked up are made for that, and not kept."""
        _, places = self._find(keys)
        there = places >= 0
        columns = self._rows.read(places[there])
        vectors, first, second, steps = (np.zeros((len(keys), *column.shape[1:]), column.dtype) for column in columns)
        for column, values in zip((vectors, first, second, steps), columns, strict=True):
            column[there] = values
        vectors[~there] = initial_rows(keys[~there], self._dim, self._seed).numpy()
        return TableRows(keys, vectors, first, second, steps, counts, last_seen_ms)


def _summed(places: Tensor, gradient: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the distinct places that any rank asked for, and their gradients summed in rank order.

    Args:
        places: Distinct within what each rank asked for, [A].
        gradient: Of each, [A, R].
        lengths: How many each rank asked for.
    """
    if len(lengths) == 1:
        return places, gradient
    touched, where = places.unique(return_inverse=True)
    total = gradient.new_zeros(len(touched), gradient.shape[1])
    parts = zip(where.to(gradient.device).split(list(lengths)), gradient.split(list(lengths)), strict=True)
    for at, part in parts:
        total[at] += part  # a rank's places are distinct: no two additions meet, so the order is the ranks'
    return touched, total
