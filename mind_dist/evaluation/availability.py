"""A prepared dataset → which items could be recommended at a moment: what evaluation ranks.

Split by user, these are the items of the log, whenever they came: ComiRec's candidates. Split by time, they are the items
that were available at the moment: by the catalog's columns where it has them. A catalog without them does not tell when
an item came, so it counts as available from its first event in the log on, for ever; one without any event, always.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mind_dist.dataset.activity import Activity
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, AVAILABLE_FROM, AVAILABLE_UNTIL, ItemCatalog
from mind_dist.evaluation.users import HeldOut
from mind_dist.records import Keys

Mask = NDArray[np.bool_]

_ALL = slice(None)


@dataclass(frozen=True)
class Availability:
    """When each item could be recommended: from <= moment < until. An item it does not have always could.

    Attributes:
        item_keys: Items, ascending, [N].
        from_ms: Of each, [N].
        until_ms: Of each, [N].
    """

    item_keys: Keys
    from_ms: Keys
    until_ms: Keys

    @classmethod
    def of_log(cls, catalog: ItemCatalog) -> Availability:
        """Return that of ComiRec's protocol: the items of the log always, cold ones never."""
        until = np.where(catalog.is_cold, 0, AVAILABILITY_LIMITS[AVAILABLE_UNTIL])
        return cls(catalog.keys, np.zeros(len(catalog), dtype=np.int64), until)

    @classmethod
    def of_time(cls, catalog: ItemCatalog, activity: Activity) -> Availability:
        """Return that of an evaluation by time."""
        if catalog.has_availability:
            return cls(catalog.keys, *(catalog.table[name].to_numpy() for name in (AVAILABLE_FROM, AVAILABLE_UNTIL)))
        no_end = np.full(len(catalog), AVAILABILITY_LIMITS[AVAILABLE_UNTIL])
        return cls(catalog.keys, activity.first_seen_ms(catalog.keys), no_end)

    def of(self, item_keys: Keys) -> Availability:
        """Return that of some items, in their order."""
        from_ms, until_ms = (np.full(len(item_keys), limit) for limit in AVAILABILITY_LIMITS.values())
        if len(self.item_keys):
            rows = np.minimum(np.searchsorted(self.item_keys, item_keys), len(self.item_keys) - 1)
            there = self.item_keys[rows] == item_keys
            from_ms[there], until_ms[there] = self.from_ms[rows[there]], self.until_ms[rows[there]]
        return Availability(item_keys, from_ms, until_ms)

    def at(self, moment_ms: int) -> Mask:
        """Tell which items could be recommended at a moment, [N]."""
        return (self.from_ms <= moment_ms) & (moment_ms < self.until_ms)

    def ever(self, moments_ms: Keys) -> Mask:
        """Tell which items could be recommended at any of some moments, [N].

        >>> Availability(np.array([1, 2]), np.array([0, 5]), np.array([3, 9])).ever(np.array([4, 6])).tolist()
        [False, True]
        """
        ordered = np.sort(moments_ms)
        return np.asarray(np.searchsorted(ordered, self.until_ms) > np.searchsorted(ordered, self.from_ms))


@dataclass(frozen=True)
class Moments:
    """When each of some histories is answered, and what could be recommended then.

    Attributes:
        times_ms: One for each history, [n].
        availability: Of the items.
    """

    times_ms: Keys
    availability: Availability

    @classmethod
    def of(cls, users: Sequence[HeldOut], availability: Availability) -> Moments:
        """Return the moments at which users are evaluated: of their first event that is to be found."""
        return cls(np.array([user.moment_ms for user in users], dtype=np.int64), availability)

    def masks(self, item_keys: Keys, histories: slice = _ALL) -> Iterator[Mask]:
        """Yield for each of the histories which items could be recommended, [N]."""
        known = self.availability.of(item_keys)
        return (known.at(int(moment)) for moment in self.times_ms[histories])
