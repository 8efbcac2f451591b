"""The item tower: what is known of an item → its vector (MIND, section 4.2).

    id, categories, words, buckets ─► rows of the table ─► their mean ──┬──────────────► + ─► vector
    continuous features ─► [value ; missing] ───────────────────────────┴─► layers ─────┘

Training, the encoder and whatever else wants the vectors of items get them here:

    keys = part_keys(item_keys, features)                    # what to look up, distinct
    parts = item_parts(item_keys, features, keys[has_row])   # `has_row`: what the table has of them
    vectors = tower(rows, parts)                             # `rows`: those rows, in the order of the keys

As behaviors and as what is searched for items may have two vectors: the halves of a row, and of what the tower returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mind_dist.config import ItemTowerConfig, ModelConfig
from mind_dist.model.dropout import Dropout
from mind_dist.model.item_bag import ItemBags, KeyedFeatures, bag_keys, bag_members, pool_bags
from mind_dist.records import Keys

CHUNK_ITEMS = 1024
"""Items a trained tower always runs on at once, padded where there are fewer: a matrix product of another shape may round
otherwise, and an item's vector must not depend on how many others are computed with it."""


@runtime_checkable
class ItemFeatures(KeyedFeatures, Protocol):
    """Side features of items, as the item catalog has them."""

    @property
    def feature_values(self) -> NDArray[np.float32]:
        """Continuous features of each item, standardised; NaN where missing, [N, F]."""
        ...


class ItemParts(NamedTuple):
    """What each item is made of.

    Attributes:
        bags: Rows of the table.
        values: Continuous features, standardised; NaN where missing, [N, F].
    """

    bags: ItemBags
    values: Float32[Tensor, "N F"]

    @property
    def known(self) -> Bool[Tensor, " N"]:
        """Which items are made of anything."""
        return self.bags.mask.any(dim=1) | (~self.values.isnan()).any(dim=1)

    def to(self, device: torch.device) -> ItemParts:
        """Return them on a device."""
        return ItemParts(ItemBags(*(part.to(device) for part in self.bags)), self.values.to(device))


def part_keys(item_keys: Keys, features: ItemFeatures) -> Keys:
    """Return the key of every row that these items may be made of: distinct, ascending."""
    return bag_keys(item_keys, features)


def item_parts(
    item_keys: Keys, features: ItemFeatures, row_keys: Keys, without_id: NDArray[np.bool_] | None = None
) -> ItemParts:
    """Return what items are made of.

    Args:
        item_keys: Items, [N].
        features: Their side features.
        row_keys: Keys of the rows there are, distinct and ascending; members of bags are indexes into it.
        without_id: Items that are to be made of their features alone, as far as they have any, [N].
    """
    found = np.full((len(item_keys), features.feature_values.shape[1]), np.nan, dtype=np.float32)
    if found.size:
        rows = features.rows(item_keys)
        found[rows >= 0] = features.feature_values[rows[rows >= 0]]
    valued = np.asarray((~np.isnan(found)).any(axis=1))
    return ItemParts(bag_members(item_keys, features, row_keys, without_id, valued), torch.from_numpy(found))


class ItemTower(nn.Module):
    """Makes the vectors of items.

    A missing continuous feature counts as the mean, and adds what is learned for its being missing. Unless the layers take
    the place of the rows' mean, they add nothing at first: an item begins as the mean of its rows.

    Args:
        config: Its section `item_tower`, and the width of rows and vectors.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        tower = config.item_tower
        self.num_continuous = tower.num_continuous
        self._residual, self._deep = tower.residual, bool(tower.hidden_dims)
        num_inputs = 2 * tower.num_continuous + (config.row_dim if self._deep else 0)
        self.layers = _layers(num_inputs, tower, config.row_dim) if num_inputs else nn.Sequential()

    def forward(self, rows: Float[Tensor, "U R"], parts: ItemParts) -> Float[Tensor, "N R"]:
        """Return the items' vectors, as wide as the rows.

        Args:
            rows: Table rows.
            parts: What the items are made of, on the rows' device.

        Raises:
            ValueError: The items have another number of continuous features than the config says.
        """
        if parts.values.shape[1] != self.num_continuous:
            found = f"items have {parts.values.shape[1]} continuous features"
            raise ValueError(f"{found}, the model's config says {self.num_continuous}")
        pooled = pool_bags(rows, *parts.bags)
        if not len(self.layers):
            return pooled
        missing = parts.values.isnan()
        values = parts.values.masked_fill(missing, 0.0)
        inputs = [values.to(rows.dtype), missing.to(rows.dtype)]
        made: Tensor = self.layers(torch.cat([pooled, *inputs] if self._deep else inputs, dim=1))
        return pooled + made if self._residual else made


def _layers(num_inputs: int, config: ItemTowerConfig, width: int) -> nn.Sequential:
    widths, layers = [num_inputs, *config.hidden_dims], list[nn.Module]()
    for width_in, width_out in pairwise(widths):
        layers += [Dropout(config.dropout), nn.Linear(width_in, width_out), nn.ReLU()]
    last = nn.Linear(widths[-1], width)
    if config.residual:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, *([Dropout(config.dropout)] if config.hidden_dims else []), last)


class ItemChunk(NamedTuple):
    """Some items of a trained model.

    Attributes:
        keys: Items, [n].
        parts: What they are made of.
        vectors: Their vectors, [n, R].
    """

    keys: Keys
    parts: ItemParts
    vectors: Float[Tensor, "n R"]


def item_chunks(
    tower: ItemTower, rows: Float[Tensor, "U R"], row_keys: Keys, item_keys: Keys, features: ItemFeatures
) -> Iterator[ItemChunk]:
    """Yield the vectors of items, some at a time.

    The same items in the same order have the same vectors to the last bit; those of an item alone do too, but for layers of
    a few columns, which are rounded otherwise at the edges of a matrix.

    Args:
        tower: In evaluation mode.
        rows: The table.
        row_keys: Keys of its rows, distinct and ascending.
        item_keys: Items, [N].
        features: Their side features.
    """
    assert not tower.training, "dropout would make the vectors differ"
    for start in range(0, len(item_keys), CHUNK_ITEMS):
        keys = item_keys[start : start + CHUNK_ITEMS]
        parts = item_parts(keys, features, row_keys)
        with torch.inference_mode():
            vectors = tower(rows, _padded(parts))[: len(keys)]
        yield ItemChunk(keys, parts, vectors)


def _padded(parts: ItemParts) -> ItemParts:
    fill = (0, 0, 0, CHUNK_ITEMS - len(parts.values))
    members, mask = (functional.pad(part, fill) for part in parts.bags)
    return ItemParts(ItemBags(members, mask), functional.pad(parts.values, fill))
