"""Item table rows ↔ Parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mind_dist.records import Keys

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class TableRows:
    """Rows of the item table.

    Attributes:
        keys: Item, side-feature and profile keys, distinct, [n].
        vectors: Their vectors, [n, D].
        first_moment: Optimizer state, [n, D].
        second_moment: Optimizer state, [n, D]; [n, 1] where a row has one.
        steps: Updates a row has had, [n].
        counts: Events of an item; 0 for feature and profile rows, which are never items, [n].
        last_seen_ms: When a row was last used, [n].
    """

    keys: Keys
    vectors: Matrix
    first_moment: Matrix
    second_moment: Matrix
    steps: Keys
    counts: Keys
    last_seen_ms: Keys

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Keys) -> TableRows:
        """Return some rows, in the order given."""
        return TableRows(**{name: column[rows] for name, column in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[TableRows]) -> TableRows:
        """Return the rows of one part or more, in their order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def to_table(self) -> pa.Table:
        """Return them as a table, one column a field."""
        return pa.table({name: _to_arrow(column) for name, column in vars(self).items()})

    @classmethod
    def from_table(cls, table: pa.Table) -> TableRows:
        """Return a table's rows, in its order."""
        return cls(**{column.name: _to_numpy(table[column.name]) for column in dataclasses.fields(cls)})

    @classmethod
    def from_tables(cls, tables: Sequence[pa.Table]) -> TableRows:
        """Return the rows of all tables, in ascending key order."""
        rows = cls.concatenate([cls.from_table(table) for table in tables])
        return rows.take(np.argsort(rows.keys, kind="stable"))


class SightingCounts(NamedTuple):
    """How often items were seen that have no row yet (below `admission_count`); keys ascending, all [n]."""

    keys: Keys
    counts: Keys
    last_seen_ms: Keys

    def to_table(self) -> pa.Table:
        """Return them as a table."""
        return pa.table(self._asdict())

    @classmethod
    def from_tables(cls, tables: Sequence[pa.Table]) -> SightingCounts:
        """Return the sightings of all tables, in ascending key order."""
        columns = [
            np.concatenate([np.empty(0, np.int64), *(_to_numpy(t[name]) for t in tables)]) for name in cls._fields
        ]
        return cls(*(column[np.argsort(columns[0], kind="stable")] for column in columns))


def _to_arrow(column: NDArray[Any]) -> pa.Array:
    """Return an array [n] or [n, D] as an Arrow column."""
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return what `_to_arrow` was given."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    width = column.type.list_size
    return np.asarray(column.combine_chunks().flatten().to_numpy()).reshape(-1, width)
