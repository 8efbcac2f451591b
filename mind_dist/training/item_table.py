"""Keys → trainable rows: the one large thing in a model, behind an interface that a sharded table can take over.

Every item, side feature and profile feature value is a row of one table. A row's first value depends on the seed
and its key alone, so it is the same wherever and whenever the key is first seen, and rows that were never updated
need not be saved.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.checkpoint import SightingCounts, TableRows
from mind_dist.keys import partition_of
from mind_dist.records import Keys, no_keys
from mind_dist.training.collectives import Collectives, SingleRank
from mind_dist.training.draws import EVENLY, DrawLaw, ItemDraws
from mind_dist.training.key_index import KeyIndex
from mind_dist.training.live_draws import LiveDraws
from mind_dist.training.sightings import Sightings
from mind_dist.training.sparse_rows import AdamRows, initial_rows


class ItemTable(Protocol):
    """Rows by key. Methods that say *collective* are called by all ranks together, with keys of their own."""

    @property
    def num_items(self) -> int:
        """Items that have a row."""
        ...

    def add_features(self, keys: Keys) -> None:
        """Give feature keys a row each; the same keys on all ranks."""
        ...

    def set_counts(self, keys: Keys, counts: Keys, seen_ms: int) -> None:
        """Set how often items were seen, and give those seen often enough a row; the same on all ranks."""
        ...

    def set_vectors(self, keys: Keys, vectors: Float[Tensor, "U R"]) -> None:
        """Replace the rows of distinct, ascending keys, as far as they have one; the same on all ranks."""
        ...

    def observe(self, keys: Keys, seen_ms: int) -> None:
        """Count sightings of items and give those seen often enough a row. Collective.

        Args:
            keys: One for each sighting, repeated as often as it was seen.
            seen_ms: When the newest of them was.
        """
        ...

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which keys have a row."""
        ...

    def sighting_shares(self, keys: Keys) -> NDArray[np.float64]:
        """Return each item's share of all sightings; for one without a row, that of a single sighting."""
        ...

    def sample_items(self, count: int, generator: np.random.Generator, law: DrawLaw = EVENLY) -> Keys:
        """Return `count` items drawn with replacement from those with a row; none where there are none.

        Args:
            count: Draws.
            generator: Where chance comes from.
            law: How often each is drawn.
        """
        ...

    def draw_shares(self, keys: Keys, law: DrawLaw = EVENLY) -> NDArray[np.float64]:
        """Return the probability that one draw of `sample_items` is each item; 0 for one without a row."""
        ...

    def all_items(self) -> Keys:
        """Return every item that has a row, ascending."""
        ...

    def lookup(self, keys: Keys) -> Float[Tensor, "U D"]:
        """Return the rows of distinct keys that have one, as a leaf that takes gradients."""
        ...

    def apply_gradients(self, learning_rate: float) -> None:
        """Update the rows of the last lookup with their gradients, averaged over all ranks. Collective."""
        ...

    def shard(self, rank: int, num_shards: int) -> TableRows:
        """Return the rows whose keys fall to a shard, ascending, but those never updated, replaced or seen."""
        ...

    def load(self, rows: TableRows) -> None:
        """Take over rows, replacing those with the same keys; the same rows on all ranks."""
        ...

    def waiting(self, rank: int, num_shards: int) -> SightingCounts:
        """Return the items of a shard that were seen too seldom to have a row, ascending."""
        ...

    def load_waiting(self, sightings: SightingCounts) -> None:
        """Take over sightings of items without a row; the same on all ranks."""
        ...


class ReplicatedItemTable:
    """An `ItemTable` that every rank holds whole.

    Replicas stay equal to the last bit: what a step touched on any rank is gathered, summed in rank order, and
    updated everywhere by lazy Adam, whose cost follows the rows touched and never the size of the table.

    Args:
        dim: Width D of a row.
        seed: Seed of the rows' first values.
        admission_count: An item gets a row when it was seen this often.
        collectives: The other ranks.
        device: Where the rows live; keys and counts stay on the CPU.
    """

    def __init__(
        self,
        dim: int,
        *,
        seed: int = 0,
        admission_count: int = 1,
        collectives: Collectives | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._dim = dim
        self._seed = seed
        self._admission_count = admission_count
        self._collectives = collectives or SingleRank()
        self._index = KeyIndex()
        self._seen = Sightings()
        self._rows = AdamRows(dim, torch.device(device))
        self._item_keys: Keys | None = no_keys()
        self._is_live = False
        self._given = no_keys()
        self._looked_up: tuple[Keys, Tensor] | None = None
        self._drawn_from: ItemDraws | LiveDraws | None = None

    @property
    def num_items(self) -> int:
        """Items that have a row."""
        return len(self.all_items())

    def add_features(self, keys: Keys) -> None:
        """Give feature keys a row each."""
        self._add(np.unique(keys))

    def set_counts(self, keys: Keys, counts: Keys, seen_ms: int) -> None:
        """Set items' counts and admit those seen often enough."""
        self._seen.set(keys, counts, seen_ms)
        self._admit(keys)
        self._drawn_from = None

    def set_vectors(self, keys: Keys, vectors: Float[Tensor, "U R"]) -> None:
        """Replace rows."""
        real = self.has(keys)
        self._given = np.union1d(self._given, keys[real])
        rows = self._index.find(keys[real])
        _, first, second, steps = self._rows.read(rows)
        self._rows.write(rows, vectors[torch.from_numpy(real)].numpy(), first, second, steps)

    def observe(self, keys: Keys, seen_ms: int) -> None:
        """Count the sightings of all ranks and admit items."""
        sightings = torch.from_numpy(np.append(keys, seen_ms))
        gathered = [part.numpy() for part in self._collectives.gather(sightings)]
        distinct, counts = np.unique(np.concatenate([part[:-1] for part in gathered]), return_counts=True)
        self._seen.add(distinct, counts, max(int(part[-1]) for part in gathered))
        self._admit(distinct)
        if isinstance(self._drawn_from, LiveDraws):
            items = distinct[self.has(distinct)]
            self._drawn_from.update(items, self._seen.of(items)[0])
        else:
            self._is_live, self._drawn_from = True, None

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which keys have a row."""
        return self._index.find(keys) >= 0

    def sighting_shares(self, keys: Keys) -> NDArray[np.float64]:
        """Return each item's share of all sightings."""
        counts, _ = self._seen.of(keys)
        return np.maximum(counts, 1) / max(1, self._seen.total)

    def sample_items(self, count: int, generator: np.random.Generator, law: DrawLaw = EVENLY) -> Keys:
        """Return drawn items."""
        return self._draws(law).sample(count, generator)

    def draw_shares(self, keys: Keys, law: DrawLaw = EVENLY) -> NDArray[np.float64]:
        """Return how likely each item is to be drawn."""
        return self._draws(law).shares(keys)

    def all_items(self) -> Keys:
        """Return every item that has a row."""
        if self._item_keys is None:
            self._item_keys = self._seen.keys[self.has(self._seen.keys)]
        return self._item_keys

    def lookup(self, keys: Keys) -> Float[Tensor, "U D"]:
        """Return rows as a leaf that takes gradients."""
        rows = self._index.find(keys)
        assert bool((rows >= 0).all()), "look up keys that have a row"
        leaf = self._rows.vectors(rows).requires_grad_()
        self._looked_up = (rows, leaf)
        return leaf

    def apply_gradients(self, learning_rate: float) -> None:
        """Average the gradients of the last lookup over all ranks and update the rows they touch."""
        assert self._looked_up is not None, "look rows up first"
        rows, leaf = self._looked_up
        self._looked_up = None
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        touched, total = self._sum_over_ranks(torch.from_numpy(rows), gradient)
        self._rows.update(touched, total / self._collectives.world_size, learning_rate)

    def shard(self, rank: int, num_shards: int) -> TableRows:
        """Return a shard's rows."""
        keys = self._index.ascending
        keys = keys[partition_of(keys, num_shards) == rank]
        vectors, first, second, steps = self._rows.read(self._index.find(keys))
        counts, last_seen_ms = self._seen.of(keys)
        kept = (steps > 0) | (counts > 0) | np.isin(keys, self._given)
        return TableRows(keys, vectors, first, second, steps, counts, last_seen_ms).take(np.flatnonzero(kept))

    def load(self, rows: TableRows) -> None:
        """Take over rows."""
        seen = rows.counts > 0
        self._given = np.union1d(self._given, rows.keys[(rows.steps == 0) & ~seen])
        self._seen.set(rows.keys[seen], rows.counts[seen], rows.last_seen_ms[seen])
        self._add(rows.keys)
        self._rows.write(self._index.find(rows.keys), rows.vectors, rows.first_moment, rows.second_moment, rows.steps)
        self._item_keys = self._drawn_from = None

    def waiting(self, rank: int, num_shards: int) -> SightingCounts:
        """Return the items of a shard without a row."""
        keys = self._seen.keys
        keys = keys[(partition_of(keys, num_shards) == rank) & ~self.has(keys)]
        return SightingCounts(keys, *self._seen.of(keys))

    def load_waiting(self, sightings: SightingCounts) -> None:
        """Take over sightings of items without a row."""
        self._seen.set(*sightings)
        self._admit(sightings.keys)
        self._drawn_from = None

    def _draws(self, law: DrawLaw) -> ItemDraws | LiveDraws:
        """Return what drawing needs; where counts change with every step, it follows them, as far as the law lets it."""
        is_followed = self._is_live and law.distribution == "counts"
        if self._drawn_from is None or self._drawn_from.law != law:
            items = self.all_items()
            counts = no_keys() if law == EVENLY and not is_followed else self._seen.of(items)[0]
            made = LiveDraws(law, items, counts) if is_followed else ItemDraws(items, counts, law)
            self._drawn_from = made
        return self._drawn_from

    def _sum_over_ranks(self, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distinct rows that any rank touched, and their gradients summed in rank order."""
        if self._collectives.world_size == 1:
            return rows, gradient
        all_rows = self._collectives.gather(rows)
        touched, where = torch.cat(all_rows).unique(return_inverse=True)
        total = gradient.new_zeros(len(touched), self._dim)
        parts = where.to(gradient.device).split([len(part) for part in all_rows])
        for at, part in zip(parts, self._collectives.gather(gradient), strict=True):
            total[at] += part  # a rank's rows are distinct: no two additions meet, so the order is the ranks'
        return touched, total

    def _admit(self, keys: Keys) -> None:
        """Give those of some items whose counts have changed, and that were seen often enough, a row."""
        counts, _ = self._seen.of(keys)
        admitted = keys[(counts >= self._admission_count) & ~self.has(keys)]
        if len(admitted):
            self._add(admitted)
        self._item_keys = None if len(admitted) else self._item_keys

    def _add(self, keys: Keys) -> None:
        """Give distinct, ascending keys a row where they have none."""
        fresh = keys[~self.has(keys)]
        if len(fresh):
            self._index.add(fresh)
            self._rows.append(initial_rows(fresh, self._dim, self._seed))
