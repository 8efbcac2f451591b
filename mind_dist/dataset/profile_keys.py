"""Users → the keys of their profiles, for the users of some buckets alone."""

from __future__ import annotations

from collections.abc import Collection
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
        width = len(dataset.manifest.profile_features)
        found = [(np.zeros(0, np.int64), np.zeros((0, width), np.int64))]
        if width:
            try:
                for batch in dataset.directory.read_batches("users.parquet", ["user_id", "profile_keys"]):
                    users = batch["user_id"].to_numpy()
                    own = np.isin(partition_of(users, dataset.manifest.num_buckets), list(buckets))
                    keys = np.asarray(pc.list_flatten(batch["profile_keys"]), dtype=np.int64).reshape(-1, width)
                    found.append((users[own], keys[own]))
            except (OSError, pa.ArrowException) as error:
                uri = (dataset.directory / "users.parquet").uri
                raise DatasetError(uri, f"missing or torn: {error}; prepare it again") from error
        users, keys = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(users)
        return cls(users[order], keys[order])

    def of(self, users: Keys) -> Keys:
        """Return the keys of users, zeros for one without a profile, [N, P]."""
        if not len(self.users):
            return np.zeros((len(users), self.keys.shape[1]), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        return np.where((self.users[at] == users)[:, None], self.keys[at], 0)
