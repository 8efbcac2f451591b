"""Users → the keys of their profiles, for the users of some buckets alone; and which keys there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import DatasetError
from mind_dist.keys import partition_of
from mind_dist.records import Keys


@dataclass(frozen=True)
class ProfileKeys:
    """Profile keys of users.

    Attributes:
        users: Who has a profile, ascending, [U].
        keys: The keys, 0 where a value is missing, [U, P].
    """

    users: Keys
    keys: Keys

    @classmethod
    def of_buckets(cls, dataset: PreparedDataset, buckets: Collection[int]) -> Self:
        """Return those of a dataset's users in some of its buckets.

        Raises:
            DatasetError: The file of users is missing or torn.
        """
        found = [(np.zeros(0, np.int64), np.zeros((0, len(dataset.manifest.profile_features)), np.int64))]
        for users, keys in _read(dataset):
            own = np.isin(partition_of(users, dataset.manifest.num_buckets), list(buckets))
            found.append((users[own], keys[own]))
        users, keys = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(users)
        return cls(users[order], keys[order])

    def of(self, users: Keys) -> Keys:
        """Return the keys of users, zeros for one without a profile, [N, P]."""
        if not len(self.users):
            return np.zeros((len(users), self.keys.shape[1]), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        return np.where((self.users[at] == users)[:, None], self.keys[at], 0)


def distinct_profile_keys(dataset: PreparedDataset) -> Keys:
    """Return every key that is in a profile of a dataset, ascending.

    Raises:
        DatasetError: The file of users is missing or torn.
    """
    found = np.zeros(0, dtype=np.int64)
    for _, keys in _read(dataset):
        found = np.union1d(found, keys[keys != 0])
    return found


def _read(dataset: PreparedDataset) -> Iterator[tuple[Keys, Keys]]:
    """Yield users and their profile keys, [n] and [n, P], some at a time; nothing where there are no profiles."""
    width = len(dataset.manifest.profile_features)
    if not width:
        return
    try:
        for batch in dataset.directory.read_batches("users.parquet", ["user_id", "profile_keys"]):
            keys = np.asarray(pc.list_flatten(batch["profile_keys"]), dtype=np.int64)
            yield batch["user_id"].to_numpy(), keys.reshape(-1, width)
    except (OSError, pa.ArrowException) as error:
        uri = (dataset.directory / "users.parquet").uri
        raise DatasetError(uri, f"missing or torn: {error}; prepare it again") from error
