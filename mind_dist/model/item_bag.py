"""The keyed part of an item is a bag of table rows: item keys → members → their mean (MIND, section 4.2).

One rule decides which rows make up an item, in training and wherever a trained version is used:

    its own row and the rows of its side features, as far as the table has them;
    a catalog item of which the table has none of these: the shared cold row, if there is one;
    an item that is neither in the catalog nor in the table: nothing, it is unknown.

`mind_dist.model.item_tower` makes the vector of an item of their mean and of its continuous features.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mind_dist.records import Keys

COLD_KEY = -3_317_410_127_331_450_271
"""Key of the shared cold row: the fingerprint of the text `cold`."""

_EPSILON = 1e-12
"""Added to squared lengths: keeps gradients finite at zero, and is lost on any vector longer than 1e-4."""


@runtime_checkable
class KeyedFeatures(Protocol):
    """Side features of items that are rows of the table."""

    @property
    def feature_offsets(self) -> Keys:
        """Where the feature keys of each item start, [N + 1]."""
        ...

    @property
    def feature_keys(self) -> Keys:
        """Feature keys of all items, one item after the other."""
        ...

    def rows(self, keys: Keys) -> Keys:
        """Return the row of each item, -1 where it is not there."""
        ...


class ItemBags(NamedTuple):
    """Which rows make up each item.

    Attributes:
        members: Indexes into the rows, [N, M]; 0 where masked.
        mask: True where real, [N, M]; an unknown item has none.
    """

    members: Int64[Tensor, "N M"]
    mask: Bool[Tensor, "N M"]


def bag_keys(item_keys: Keys, features: KeyedFeatures) -> Keys:
    """Return every key that may be part of these items, the cold row's among them: distinct, ascending."""
    keys, mask = _candidates(item_keys, features)
    return np.unique(np.append(keys[mask], COLD_KEY))


def bag_members(
    item_keys: Keys,
    features: KeyedFeatures,
    row_keys: Keys,
    without_id: NDArray[np.bool_] | None = None,
    valued: NDArray[np.bool_] | None = None,
) -> ItemBags:
    """Return the rows that make up each item.

    Args:
        item_keys: Items, [N].
        features: Their side features.
        row_keys: Keys of the rows there are, distinct and ascending; members are indexes into it.
        without_id: Items whose own row is left out, where anything else is known of them: as if never seen, [N].
        valued: Items of which something is known beside rows, [N].

    >>> class NoFeatures:
    ...     feature_offsets, feature_keys = np.zeros(1, np.int64), np.zeros(0, np.int64)
    ...     def rows(self, keys): return np.full(len(keys), -1)
    >>> bag_members(np.array([7, 8]), NoFeatures(), np.array([5, 7])).mask.tolist()
    [[True], [False]]
    """
    keys, candidate = _candidates(item_keys, features)
    members = _find(row_keys, keys)
    mask = candidate & (members >= 0)
    if without_id is not None:
        described = mask[:, 1:].any(axis=1) if valued is None else mask[:, 1:].any(axis=1) | valued
        mask[:, 0] &= ~(without_id & described)
    bare = np.flatnonzero(~mask.any(axis=1))
    cold = bare[features.rows(item_keys[bare]) >= 0]
    members[cold, 0] = _find(row_keys, np.array([COLD_KEY]))[0]
    mask[cold, 0] = members[cold, 0] >= 0
    return ItemBags(torch.from_numpy(np.where(mask, members, 0)), torch.from_numpy(mask))


def pool_bags(
    rows: Float[Tensor, "U D"], members: Int64[Tensor, "N M"], mask: Bool[Tensor, "N M"]
) -> Float[Tensor, "N D"]:
    """Return the mean of each bag's real members; zeros for an empty bag.

    Args:
        rows: Table rows.
        members: Indexes into `rows`; any index where masked.
        mask: True where real.
    """
    if not rows.shape[0]:  # nothing to index: all bags are empty, and the graph still reaches the rows
        return rows.new_zeros(members.shape[0], rows.shape[1]) + rows.sum()
    if members.shape[1] == 1:  # ids alone: a bag is its row
        return functional.embedding(members[:, 0], rows) * mask.to(rows.dtype)
    share = mask.to(rows.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return functional.embedding_bag(members, rows, mode="sum", per_sample_weights=share.to(rows.dtype))


def score_vectors(item_vectors: Float[Tensor, "*N D"], *, normalize: bool) -> Float[Tensor, "*N D"]:
    """Return what items are scored and searched by: unit vectors with `normalize`, else the vectors themselves.

    Behaviors enter a model as pooled, never normalised: the length of a vector is its say in routing.
    """
    return unit_vectors(item_vectors) if normalize else item_vectors


def unit_vectors(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Scale vectors to length 1; zeros stay zeros, with finite gradients."""
    wide = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    squared = wide.square().sum(dim=-1, keepdim=True)
    return (wide * torch.rsqrt(squared + _EPSILON)).to(vectors.dtype)


def _candidates(item_keys: Keys, features: KeyedFeatures) -> tuple[Keys, NDArray[np.bool_]]:
    """Return, per item, its own key and its feature keys, [N, 1 + most features], with a mask."""
    own = np.ones((len(item_keys), 1), dtype=np.bool_)
    if not len(features.feature_keys):  # looking ten thousand items up among millions would take a tenth of a step
        return item_keys[:, None], own
    catalog_rows = features.rows(item_keys)
    listed = catalog_rows >= 0
    starts, stops = np.zeros((2, len(item_keys)), dtype=np.int64)
    starts[listed] = features.feature_offsets[catalog_rows[listed]]
    stops[listed] = features.feature_offsets[catalog_rows[listed] + 1]
    slots = starts[:, None] + np.arange((stops - starts).max(initial=0))
    real = slots < stops[:, None]
    found = np.zeros(slots.shape, dtype=np.int64)
    found[real] = features.feature_keys[slots[real]]
    return np.hstack([item_keys[:, None], found]), np.hstack([own, real])


def _find(ascending: Keys, wanted: Keys) -> Keys:
    """Return the index of each wanted key, -1 where it is not there."""
    if not len(ascending):
        return np.full(wanted.shape, -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at, -1)
