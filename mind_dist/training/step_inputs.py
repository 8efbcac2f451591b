"""`Batch` → what one step computes on: distinct table rows, and every item as indexes into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.data.batches import Batch
from mind_dist.model.interests import Behaviors
from mind_dist.model.item_bag import ItemBags, ItemFeatures, bag_keys, bag_members, pool_bags
from mind_dist.records import Keys
from mind_dist.training.item_table import ItemTable


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One rank's part of a step, before any row is read.

    The N items are those of the histories, the targets and the negatives, each once; the pool is the items that
    targets are told from. Items that are neither in the catalog nor in the table are masked out everywhere, and B counts the
    windows that are left with a behavior and a target.

    Attributes:
        row_keys: Table rows to look up, distinct and ascending, [U].
        bags: The items as bags of these rows, [N, M].
        history_keys: Item keys, [B, L].
        history: Indexes into the items, [B, L].
        history_mask: True where real and known, [B, L].
        pool: Indexes into the items, distinct, [P].
        pool_keys: Their keys, [P].
        targets: Indexes into the pool, [B, T].
        target_mask: True where real, known, and with a history, [B, T].
        profile: Indexes into the rows, [B, F].
        profile_mask: True where the row is there, [B, F].
    """

    row_keys: Keys
    bags: ItemBags
    history_keys: Int64[Tensor, "B L"]
    history: Int64[Tensor, "B L"]
    history_mask: Bool[Tensor, "B L"]
    pool: Int64[Tensor, " P"]
    pool_keys: Keys
    targets: Int64[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]
    profile: Int64[Tensor, "B F"]
    profile_mask: Bool[Tensor, "B F"]

    @classmethod
    def of(cls, batch: Batch, negatives: Keys, table: ItemTable, features: ItemFeatures) -> StepInputs:
        """Find out which rows a batch and its negatives need, and where each of them goes."""
        examples = batch.examples
        items, (history, targets, drawn) = _distinct(examples.history, examples.targets, negatives)
        row_keys = np.union1d(bag_keys(items, features), examples.profile)
        row_keys = row_keys[table.has(row_keys)]
        bags = bag_members(items, features, row_keys)
        known = bags.mask.any(dim=1).numpy()
        history_mask = examples.history_mask & known[history]
        target_mask = examples.target_mask & known[targets] & history_mask.any(axis=1, keepdims=True)
        pool = np.unique(np.append(targets[target_mask], drawn[known[drawn]]))
        profile = np.searchsorted(row_keys, examples.profile)
        profile_mask = (np.append(row_keys, 0)[profile] == examples.profile) & (examples.profile != 0)
        told = target_mask.any(axis=1)  # windows without a known target or behavior teach nothing
        targets, profile = np.where(target_mask, targets, pool[:1].sum()), np.where(profile_mask, profile, 0)
        return cls(
            row_keys,
            bags,
            history_keys=torch.from_numpy(examples.history[told]),
            history=torch.from_numpy(history[told]),
            history_mask=torch.from_numpy(history_mask[told]),
            pool=torch.from_numpy(pool),
            pool_keys=items[pool],
            targets=torch.from_numpy(np.searchsorted(pool, targets[told])),
            target_mask=torch.from_numpy(target_mask[told]),
            profile=torch.from_numpy(profile[told]),
            profile_mask=torch.from_numpy(profile_mask[told]),
        )

    @property
    def num_targets(self) -> int:
        """Targets that count in the loss."""
        return int(self.target_mask.sum())

    def item_vectors(self, rows: Float[Tensor, "U D"]) -> Float[Tensor, "N D"]:
        """Return the items' vectors."""
        return pool_bags(rows, self.bags.members.to(rows.device), self.bags.mask.to(rows.device))

    def behaviors(self, items: Float[Tensor, "N D"]) -> Behaviors:
        """Return the histories as the model takes them."""
        vectors = _gather(items, self.history)
        return Behaviors(vectors, self.history_keys.to(items.device), self.history_mask.to(items.device))

    def profiles(self, rows: Float[Tensor, "U D"]) -> Float[Tensor, "B F D"] | None:
        """Return the profiles' vectors, zeros where missing; None when the model takes none."""
        if not self.profile.shape[1]:
            return None
        return _gather(rows, self.profile) * self.profile_mask.to(rows.device)[:, :, None]


def _distinct(*groups: Keys) -> tuple[Keys, list[NDArray[np.int64]]]:
    """Return the distinct keys of some arrays, ascending, and each array as indexes into them."""
    keys, inverse = np.unique(np.concatenate([group.ravel() for group in groups]), return_inverse=True)
    parts = np.split(inverse, np.cumsum([group.size for group in groups])[:-1])
    return keys, [part.reshape(group.shape) for part, group in zip(parts, groups, strict=True)]


def _gather(vectors: Float[Tensor, "N D"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
    return torch.nn.functional.embedding(index.to(vectors.device), vectors)
