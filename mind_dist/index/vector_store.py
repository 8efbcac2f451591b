"""The port to the index: items and users of each model version, and the switch between versions.

Rows and the exact rules are design 4.5. Implementations: `InMemoryVectorStore` (`mind_dist.index.memory`, exact)
and `MilvusVectorStore` (`mind_dist.index.milvus`). No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mind_dist.records import KeyRows, Keys, no_keys, no_rows

Vectors = NDArray[np.float32]
"""Float32 vectors, one a row."""

Scalar = str | int | float | bool
Operators = Mapping[str, Scalar | Sequence[Scalar]]
"""Operator → its operand: `lt`, `lte`, `gt`, `gte` with a value, `in`, `not_in` with a list, `null` with a bool."""

Filter = Mapping[str, Scalar | Sequence[Scalar] | Operators]
"""Column → what an item must have there: a value, any of a list of values, or several operators; all must hold.

A missing value is in no list and in no range, so only `not_in` and `{"null": True}` find the item. A column of several
texts for an item (genres) is `in` a list when any of its texts is, and `not_in` it when none is; it is missing when it
is empty, and has no ranges. Texts are compared by code point, as ISO dates are ordered in time.

So `{"price": {"gt": 0, "lt": 20}, "genre": ["drama", "war"], "brand": {"null": False}}` is what costs something, but
less than 20, is of either genre, and has a brand.
"""

MAX_LIMIT = 16_384
"""The largest number of items one search may ask for (Milvus' own bound)."""


@dataclass(frozen=True, slots=True)
class Column:
    """A filter column of the item catalog.

    Attributes:
        name: Its name.
        kind: `text`, `integer`, `real`, or `texts` for several texts an item.
        nullable: Values may be missing (None). Never for `texts`, where an empty list is what is missing.
    """

    name: str
    kind: str = "text"
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What a version is; it stands in its collections' descriptions.

    Attributes:
        model_version: Its name.
        dim: Width D of an item vector.
        num_interests: Interests K in a user's row, padded with zeros.
        similarity: `cosine` (vectors are normalised) or `inner_product`; searched by inner product both ways.
        uri: Where the model version's directory is, for whoever recomputes users.
        max_behaviors: Most behaviors of a user's row: the longest history that the model reads, and `MAX_TIES` more.
        id_type: `int64` or `string`.
        step: Training step.
        watermark_ms: Time of the newest event trained on.
        metrics: Metrics of the version by name.
        columns: Filter columns of its items.
        published_ms: When it was put into the store.
        num_items: How many items it has, or will have; an index is chosen by it.
        marks_missing: Missing values can be told from others. In versions published before there were ranges they
            cannot: these know no ranges, and no `null` but for `texts`.
        event_types: Types of the events in its users' histories; empty where events of every type are.
        behavior_features: Features of behaviors that a user's row keeps.
    """

    model_version: str
    dim: int
    num_interests: int
    similarity: str
    uri: str
    max_behaviors: int
    id_type: str = "int64"
    step: int = 0
    watermark_ms: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    published_ms: int = 0
    num_items: int = 0
    marks_missing: bool = True
    event_types: tuple[str, ...] = ()
    behavior_features: tuple[str, ...] = ()

    def has_items_of(self, other: VersionInfo) -> bool:
        """Tell whether both lay out the same items in the same way."""
        names = ("model_version", "dim", "similarity", "id_type", "columns", "num_items", "marks_missing")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VersionInfo:
        """Build it back from `to_json`, also from that of a version that did not mark missing values yet."""
        columns = tuple(Column(**column) for column in values["columns"])
        texts = {name: tuple(values.get(name, ())) for name in ("event_types", "behavior_features")}
        return cls(**{"marks_missing": False, **values, "columns": columns, **texts})


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Items to upsert.

    Attributes:
        keys: Item keys, [N], distinct.
        vectors: Item vectors, [N, D].
        columns: Column name → N values; None where a nullable column has none.
    """

    keys: Keys
    vectors: Vectors
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserRow:
    """What a version makes of a user's state: interests, the behaviors behind them, and which state it was.

    Attributes:
        user_key: The user.
        interests: Interest vectors, [num_interests, D]: only the real ones, never padding.
        weights: Share of the history behind each interest, [num_interests].
        behaviors: Item keys, oldest first.
        timestamps_ms: Their times.
        profile: Profile feature keys.
        partition: Partition of the log the user's events come from.
        state_offset: Where the state stands in the log of states.
        updated_ms: When the row was computed.
        model_version: The version whose items the interests fit.
        behavior_keys: One key per behavior and feature of behaviors, 0 where missing, [n, F].
    """

    user_key: int
    interests: Vectors
    weights: NDArray[np.float32]
    behaviors: Keys = field(default_factory=no_keys)
    timestamps_ms: Keys = field(default_factory=no_keys)
    profile: Keys = field(default_factory=no_keys)
    partition: int = -1
    state_offset: int = 0
    updated_ms: int = 0
    model_version: str = ""
    behavior_keys: KeyRows = field(default_factory=no_rows)


@dataclass(frozen=True, slots=True)
class Hits:
    """What one query found, best first.

    Attributes:
        keys: Keys of items, or of users, [n].
        scores: Inner products, [n].
        columns: Requested column → n values; None where a nullable column has none.
    """

    keys: Keys
    scores: NDArray[np.float32]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class PublishLock(Protocol):
    """A lock that one publisher of a deployment can have; it shows who, and whether the holder still lives."""

    def create(self, holder: str) -> bool:
        """Make the lock, unless there is one; tell whether `holder` has it."""
        ...

    def state(self) -> tuple[str, int] | None:
        """Return who holds the lock, and how often it has beaten; None where there is none."""
        ...

    def beat(self, holder: str) -> bool:
        """Show that the holder lives; False where the lock is another's."""
        ...

    def remove(self, holder: str) -> None:
        """Remove the lock if it is this holder's."""
        ...


class VectorStore(Protocol):
    """Items and users by model version.

    Every method raises `ServiceUnavailable` when the store does not answer within the implementation's bound, and
    `VectorStoreError` when it refuses. Writes name the version: none goes through the alias.
    """

    def create_version(self, info: VersionInfo) -> None:
        """Make empty places for a version's items and users; nothing happens if they are there already."""
        ...

    def renew_version(self, info: VersionInfo) -> bool:
        """Make a version's places anew, for a publisher alone: empty ones, but for items an earlier publish has written.

        Items that are left of other versions go.

        Returns:
            Whether there are items, laid out in the same way, all or some.

        Raises:
            VectorStoreError: The version is active or staged.
        """
        ...

    def publish_lock(self) -> PublishLock:
        """Return the lock of this deployment's publishers."""
        ...

    def versions(self) -> Sequence[VersionInfo]:
        """Return all versions, by step then name."""
        ...

    def version_info(self, model_version: str) -> VersionInfo:
        """Return what a version is, without asking the server each time: it never changes.

        Raises:
            VectorStoreError: There is no such version.
        """
        ...

    def drop_version(self, model_version: str, *, keep_items: bool = False) -> None:
        """Remove a version's items and users; with `keep_items` a later `renew_version` finds the items again.

        Raises:
            VectorStoreError: The version is active.
        """
        ...

    def release_version(self, model_version: str) -> None:
        """Let the server's memory go of a version; it stays on its disk, and is loaded again where somebody reads it."""
        ...

    def is_released(self, model_version: str) -> bool:
        """Tell whether a version is on the server's disk alone, without loading it."""
        ...

    def load_version(self, model_version: str) -> None:
        """Return when a version that was released can be read and searched as before."""
        ...

    def activate(self, model_version: str) -> None:
        """Point readers at a version; returns when reads through the alias show it."""
        ...

    def active_version(self) -> str | None:
        """Return the version readers are pointed at, as read through the alias."""
        ...

    def stage(self, model_version: str | None) -> None:
        """Name the version that updaters keep fresh beside the active one until it is activated; None clears it."""
        ...

    def staged_version(self) -> str | None:
        """Return the staged version."""
        ...

    def upsert_items(self, model_version: str, rows: ItemRows) -> None:
        """Write items; raises `VectorStoreError` for a vector that is not finite or of another width."""
        ...

    def settle_items(self, model_version: str) -> None:
        """Return when searches go through the finished index of the items written so far.

        Until then they may be slower and more exact, or much less exact, than they will be.
        """
        ...

    def count_items(self, model_version: str, *, between: tuple[int, int] | None = None) -> int:
        """Return how many items a version has, exactly; with `between` those from a key up to, and with, another."""
        ...

    def search_items(
        self,
        model_version: str,
        queries: Vectors,
        limit: int,
        *,
        filter: Filter | None = None,
        columns: Sequence[str] = (),
    ) -> Sequence[Hits]:
        """Return for each query [Q, D] the `limit` items with the largest inner product.

        Raises:
            InvalidRequest: The limit is out of range, a query is not finite, or the filter names an unknown column or
                operator, a value of another kind, or too many values.
        """
        ...

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        """Write users, each at most once in `rows`; a row replaces all of what stood there."""
        ...

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        """Return the rows found by key in one call.

        With `strong`, every write acknowledged before the call is seen; without it, writes of the last seconds
        may be missing. Either way a row that is being written may be missing.
        """
        ...

    def get_interests(self, model_version: str, user_keys: Sequence[int]) -> dict[int, UserRow]:
        """Return what a search needs of the rows found: interests, weights and behaviors; nothing else is read.

        Writes of the last seconds may be missing.
        """
        ...

    def search_users(self, model_version: str, vector: Vectors, limit: int) -> Sequence[Hits]:
        """Return for each interest of users the `limit` users whose one has the largest inner product with a vector, [D].

        The k-th answer is of the users' k-th interests; an interest that a user lacks counts as 0. Exact: no index of
        Milvus serves queries that are zero but in one slot, so all users are looked at.

        Raises:
            InvalidRequest: The limit is out of range, or the vector is of another width or not finite.
        """
        ...

    def delete_users(self, model_version: str, user_keys: Sequence[int]) -> None:
        """Remove users."""
        ...

    def count_users(self, model_version: str) -> int:
        """Return how many users a version has, exactly."""
        ...

    def scan_users(self, model_version: str) -> Iterator[UserRow]:
        """Yield every user of a version, in key order."""
        ...

    def close(self) -> None:
        """Leave the store."""
        ...
