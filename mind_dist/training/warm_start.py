"""Prepared dataset → first vectors of items, so that training need not find out what goes together from nothing.

An item's vectors as a behavior and as a target are the left and right factors of the positive pointwise mutual information
of "i, and within a few behaviors j" (Levy and Goldberg, NIPS 2014, with their smoothing of 2015). On MovieLens-1M this saved half
the steps; it does not change where training ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pyarrow import compute as pc
from torch import Tensor

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.records import Keys

_WINDOW = 10
"""Behaviors within which a later item counts as following."""

_SMOOTHING = 0.75
"""Power of the counts of what follows: without it rare items would look like the best company."""

_MOST_EVENTS = 5_000_000
"""Events looked at: more would change little, and all pairs of a huge log would not fit into memory."""

_EXTRA_RANK, _POWER_ITERATIONS = 16, 4


class Pairs(NamedTuple):
    """How often one item followed another.

    Attributes:
        before: Catalog rows, [P].
        after: Catalog rows, [P].
        counts: How often, [P].
    """

    before: Keys
    after: Keys
    counts: NDArray[np.float64]


class FirstVectors(NamedTuple):
    """Rows to begin with.

    Attributes:
        keys: Of items and of their side features, ascending, [N].
        vectors: Their rows, [N, R].
    """

    keys: Keys
    vectors: Float[Tensor, "N R"]


def first_vectors(dataset: PreparedDataset, dim: int, *, separate: bool, seed: int) -> FirstVectors:
    """Return rows whose bags are the items' vectors.

    Args:
        dataset: Its train split is read.
        dim: Width D of a vector.
        separate: Give items a vector as a behavior and another as a target, side by side; else one for both.
        seed: Of the approximate decomposition.
    """
    catalog = _seen(dataset)
    pairs = count_pairs(dataset, catalog)
    if not separate:
        pairs = Pairs(
            *(np.concatenate(each) for each in zip(pairs, (pairs.after, pairs.before, pairs.counts), strict=True))
        )
    left, right = _factors(positive_information(pairs, len(catalog)), dim, seed)
    vectors = torch.cat([left, right], dim=1) if separate else left
    return rows_of_bags(catalog, vectors)


def _seen(dataset: PreparedDataset) -> ItemCatalog:
    """Return the items that may follow another: zeros of all others would pull the rows of their features down."""
    catalog = dataset.catalog().without_cold()
    if dataset.manifest.split.get("by") != "time":
        return catalog
    return ItemCatalog(catalog.table.filter(pa.array(catalog.counts > 0)))


def count_pairs(dataset: PreparedDataset, catalog: ItemCatalog) -> Pairs:
    """Count which items follow which within the window, over as many blocks of users as are looked at."""
    keys, num_events = np.zeros(0, dtype=np.int64), 0
    counts: NDArray[np.float64] = np.zeros(0)
    for table in _blocks(dataset):
        rows = catalog.rows(pc.list_flatten(table["item_ids"]).to_numpy())
        users = pc.list_parent_indices(table["item_ids"]).to_numpy()
        found = np.concatenate([_followers(rows, users, lag, len(catalog)) for lag in range(1, _WINDOW + 1)])
        keys, places = np.unique(np.concatenate([keys, found]), return_inverse=True)
        weights = np.concatenate([counts, np.ones(len(found))])
        counts = np.bincount(places, weights, minlength=len(keys)).astype(np.float64)
        num_events += len(rows)
        if num_events >= _MOST_EVENTS:
            break
    before, after = np.divmod(keys, max(1, len(catalog)))
    return Pairs(before, after, counts)


def _blocks(dataset: PreparedDataset) -> Iterator[pa.Table]:
    """Yield the items of the train users, one block after the other."""
    for bucket in range(dataset.manifest.num_buckets):
        with dataset.open_bucket("train", bucket) as file:
            for block in range(file.num_blocks):
                yield file.read(block, ["item_ids"])


def _followers(rows: Keys, users: Keys, lag: int, num_items: int) -> Keys:
    before, after = rows[:-lag], rows[lag:]
    real = (users[:-lag] == users[lag:]) & (before >= 0) & (after >= 0)
    return np.asarray((before * num_items + after)[real])


def positive_information(pairs: Pairs, num_items: int) -> Float[Tensor, "N N"]:
    """Return max(0, log p(i, j) / (p(i) p'(j))) as a sparse matrix, p' smoothed."""
    total = pairs.counts.sum()
    of_before = np.bincount(pairs.before, pairs.counts, minlength=num_items) / max(total, 1)
    of_after = np.bincount(pairs.after, pairs.counts, minlength=num_items) ** _SMOOTHING
    of_after /= max(of_after.sum(), 1)
    expected = of_before[pairs.before] * of_after[pairs.after]
    information = np.log(pairs.counts / max(total, 1) / expected)
    kept = information > 0
    places = torch.from_numpy(np.stack([pairs.before[kept], pairs.after[kept]]))
    values = torch.from_numpy(information[kept]).float()
    matrix: Tensor = torch.sparse_coo_tensor(places, values, (num_items, num_items), check_invariants=False).coalesce()
    return matrix


def _factors(matrix: Float[Tensor, "N N"], dim: int, seed: int) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Return left and right vectors whose inner products come closest to the matrix, of mean length 1."""
    rank = min(dim + _EXTRA_RANK, len(matrix))
    torch.manual_seed(seed)
    left, values, right = torch.svd_lowrank(matrix, q=rank, niter=_POWER_ITERATIONS)
    return _scaled(left * values.sqrt(), dim), _scaled(right * values.sqrt(), dim)


def _scaled(vectors: Float[Tensor, "N R"], dim: int) -> Float[Tensor, "N D"]:
    """Return vectors of a width, with zeros where there are fewer factors, scaled to a mean length of 1."""
    found = torch.nn.functional.pad(vectors[:, :dim], (0, max(0, dim - vectors.shape[1])))
    lengths: Tensor = found.norm(dim=1)
    return found / lengths.mean().clamp(min=torch.finfo(found.dtype).tiny)


def rows_of_bags(catalog: ItemCatalog, vectors: Float[Tensor, "N R"]) -> FirstVectors:
    """Return rows whose means over each item's bag are the items' vectors.

    A side feature's row is the mean of the vectors of the items that have it; an item's own row is what is missing then.
    """
    counts = np.diff(catalog.feature_offsets)
    owners = torch.from_numpy(np.repeat(np.arange(len(catalog)), counts))
    features, places = np.unique(catalog.feature_keys, return_inverse=True)
    of_features = torch.zeros(len(features), vectors.shape[1])
    at = torch.from_numpy(places)
    of_features.index_add_(0, at, vectors[owners])
    of_features /= torch.bincount(at, minlength=len(features)).clamp(min=1)[:, None]
    own = vectors * torch.from_numpy(1 + counts)[:, None]
    own = own.index_add(0, owners, of_features[at], alpha=-1)
    keys = np.concatenate([catalog.keys, features])
    order = np.argsort(keys)
    return FirstVectors(keys[order], torch.cat([own, of_features])[torch.from_numpy(order)])
