"""A version's item table, read a part at a time: memory follows what serving keeps, not what training wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mind_dist.checkpoint import ModelVersion
from mind_dist.encoder.items import Rows
from mind_dist.errors import VersionError
from mind_dist.model.item_bag import COLD_KEY


def read_rows(version: ModelVersion, width: int, scratch: Path) -> Rows:
    """Return the rows of the item table, their vectors in a file that is mapped.

    Args:
        version: The version.
        width: Width of a row.
        scratch: The file, which is written.

    Raises:
        VersionError: A shard is missing or torn, or a key is in two.
    """
    keys = _column(version, "keys")
    is_item = _column(version, "counts") > 0
    kept = np.ones(len(keys), dtype=np.bool_)
    cold = np.flatnonzero(keys == COLD_KEY)
    if len(cold) and not _is_trained(version, int(cold[0])):
        kept[cold] = False
    order = np.argsort(keys[kept], kind="stable")
    place = np.full(len(keys), -1)
    place[np.flatnonzero(kept)[order]] = np.arange(len(order))
    ascending = keys[kept][order]
    if bool((np.diff(ascending) == 0).any()):
        raise VersionError(version.uri, "a key is in two item shards")
    vectors = np.zeros((len(order), width), np.float32) if not len(order) else _mapped(scratch, (len(order), width))
    for start, batch in _batches(version, ["vectors"]):
        at = place[start : start + batch.num_rows]
        vectors[at[at >= 0]] = _matrix(batch, "vectors")[at >= 0]
    return Rows(ascending, torch.from_numpy(vectors), is_item[kept][order])


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.memmap(path, dtype=np.float32, mode="w+", shape=shape)


def _column(version: ModelVersion, name: str) -> NDArray[np.int64]:
    parts = [batch.column(name).to_numpy() for _, batch in _batches(version, [name])]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _is_trained(version: ModelVersion, row: int) -> bool:
    """Tell whether a row has ever had a gradient."""
    moments = ["first_moment", "second_moment"]
    for start, batch in _batches(version, moments):
        if row < start + batch.num_rows:
            return any(bool(_matrix(batch, name)[row - start].any()) for name in moments)
    return False


def _batches(version: ModelVersion, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield columns of the table, some rows at a time, and how many rows came before."""
    start = 0
    for batch in version.item_batches(columns):
        yield start, batch
        start += batch.num_rows


def _matrix(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    column = batch.column(name)
    return np.asarray(column.flatten().to_numpy()).reshape(batch.num_rows, column.type.list_size)
