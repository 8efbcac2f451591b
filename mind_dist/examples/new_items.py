"""Records → the outside ids of items that no catalog has: a key inside is a fingerprint, and does not tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mind_dist.keys import fingerprint
from mind_dist.log.codec import item_ids
from mind_dist.records import Keys


class NewItems:
    """Takes note of the outside ids, which are texts, of items as they are met.

    Args:
        known: Keys of the items whose ids are known, ascending.
    """

    def __init__(self, known: Keys) -> None:
        self._known = known
        self._met: set[int] = set()
        self._ids: dict[int, str] = {}

    def add(self, value: bytes, item_keys: Sequence[int]) -> None:
        """Take note of a record's items, of which these count."""
        new = {key for key in item_keys if key not in self._met and not self._is_known(key)}
        if new:
            self._met |= new
            self._ids.update((key, name) for name in item_ids(value) if (key := fingerprint(name)) in new)

    def told(self) -> Mapping[int, str]:
        """Return the ids noted since the last call, by key; from now on they are noted again where they are met."""
        ids, self._ids = self._ids, {}
        self._met = set()
        return ids

    def _is_known(self, key: int) -> bool:
        at = int(np.searchsorted(self._known, key))
        return at < len(self._known) and int(self._known[at]) == key
