"""Metadata tables → feature keys: one row an item or user, in the order of the keys asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import FeatureConfig, MetadataConfig
from mind_dist.data.cleaning import keys_of, parse_ids, parse_reals, plain
from mind_dist.data.codec import IdType, feature_key
from mind_dist.data.parquet import FeatureInfo
from mind_dist.data.raw_log import read_all
from mind_dist.records import Keys


@dataclass(frozen=True)
class Features:
    """Features of N items or users.

    Attributes:
        infos: What the F features are.
        keys: A table of the keys each row has: `row` [n], `feature` [n] (its place in `infos`), `key` [n].
        columns: The raw feature and display columns, N rows each.
    """

    infos: tuple[FeatureInfo, ...]
    keys: NDArray[np.void]
    columns: dict[str, pa.Array]


_KEY = np.dtype([("row", np.int64), ("feature", np.int64), ("key", np.int64)])


def read_features(
    config: MetadataConfig, id_column: str, id_type: IdType, keys: Keys, fitted: NDArray[np.bool_] | None = None
) -> Features:
    """Read metadata and align it with `keys`; a key without a row has no features, and of several rows the first counts.

    Args:
        config: Where the metadata is.
        id_column: Column of the ids, unless the config names one.
        id_type: What ids are.
        keys: What to read, [N].
        fitted: Whose numbers the buckets are cut by, [N]; None for all.

    Raises:
        DatasetError: A file is missing, torn or lacks a column.
    """
    sources = {feature.name: feature.column or feature.name for feature in config.features}
    sources |= {name: name for name in config.columns}
    table = read_all(config, {"": config.id_column or id_column, **sources})
    aligned = table.select(list(sources)).take(rows_of(table[""].combine_chunks(), id_type, keys))
    columns = {name: plain(aligned[name].combine_chunks()) for name in sources}
    return _build(config.features, columns, np.ones(len(keys), np.bool_) if fitted is None else fitted)


def no_features() -> Features:
    """Return the features of anything without metadata."""
    return Features((), np.empty(0, _KEY), {})


def bags(features: Features, num_rows: int) -> pa.Array:
    """Return the keys of each row as a list, [num_rows]."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(features.keys["row"], minlength=num_rows))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(features.keys["key"], pa.int64()))


def profiles(features: Features, num_rows: int) -> pa.Array:
    """Return one key per feature for each row as a list, 0 where missing, [num_rows] of F."""
    matrix = np.zeros((num_rows, len(features.infos)), dtype=np.int64)
    matrix[features.keys["row"], features.keys["feature"]] = features.keys["key"]
    offsets = np.arange(num_rows + 1, dtype=np.int32) * len(features.infos)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def rows_of(ids: pa.Array, id_type: IdType, keys: Keys) -> pa.Array:
    """Return the first row of each key, null where no row has it."""
    parsed = parse_ids(plain(ids), id_type)
    rows = np.flatnonzero(np.asarray(parsed.is_valid()))
    distinct, first = np.unique(keys_of(pa.chunked_array([parsed.drop_null()])), return_index=True)
    if not len(distinct):
        return pa.nulls(len(keys), pa.int64())
    places = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
    return pa.array(rows[first[places]], mask=distinct[places] != keys)


def _build(configs: Sequence[FeatureConfig], columns: dict[str, pa.Array], fitted: NDArray[np.bool_]) -> Features:
    infos, keys, kept = [], [np.empty(0, _KEY)], dict(columns)
    for place, config in enumerate(configs):
        boundaries: tuple[float, ...] = ()
        values = columns[config.name]
        if config.kind == "buckets":
            kept[config.name] = values = parse_reals(values)
            boundaries = quantile_boundaries(values.filter(pa.array(fitted)), config.num_buckets)
            values = _buckets(values, boundaries)
        if config.kind == "categories":
            kept[config.name] = values = _split(values, config.separator)
        infos.append(FeatureInfo(config.name, config.kind, boundaries))
        keys.append(_keys(config.name, place, values))
    return Features(tuple(infos), np.sort(np.concatenate(keys), order=["row", "feature", "key"]), kept)


def quantile_boundaries(values: pa.Array, num_buckets: int) -> tuple[float, ...]:
    """Return the upper bounds of all buckets but the last, so that each holds about as many values.

    Fewer where a value is so frequent that it fills several buckets; none when there are no values.
    """
    known = np.asarray(values.drop_null(), dtype=np.float64)
    if not len(known):
        return ()
    shares = np.arange(1, num_buckets) / num_buckets
    bounds = np.unique(np.quantile(known, shares))
    return tuple(bounds[bounds < known.max()].tolist())


def _buckets(values: pa.Array, boundaries: Sequence[float]) -> pa.Array:
    buckets = np.searchsorted(np.array(boundaries), np.asarray(values.fill_null(0.0)), side="left")
    return pa.array(buckets, pa.int64(), mask=np.asarray(values.is_null()))


def _split(values: pa.Array, separator: str) -> pa.Array:
    """Return texts as lists of their parts, without empty ones; null becomes an empty list."""
    texts = values.cast(pa.string()).to_pylist()
    parts = [[part.strip() for part in (text or "").split(separator)] for text in texts]
    return pa.array([[part for part in row if part] for row in parts], pa.list_(pa.string()))


def _keys(name: str, place: int, values: pa.Array) -> NDArray[np.void]:
    """Return the distinct keys of each row; missing and empty values have none."""
    if pa.types.is_list(values.type):
        rows, flat = pc.list_parent_indices(values), pc.list_flatten(values)
    else:
        rows, flat = pa.array(np.arange(len(values))), values
    encoded = flat.cast(pa.string()).dictionary_encode()
    present = np.asarray(pc.and_(pc.is_valid(flat), pc.not_equal(flat.cast(pa.string()), "")).fill_null(False))
    by_value = np.array([feature_key(name, value) for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    found = np.empty(int(present.sum()), _KEY)
    found["row"] = np.asarray(rows)[present]
    found["feature"] = place
    found["key"] = by_value[np.asarray(encoded.indices.fill_null(0), dtype=np.int64)[present]]
    return np.unique(found)
