"""Metadata tables → feature keys and continuous values: one row an item or user, in the order of the keys asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from mind_dist.config import FeatureConfig, MetadataConfig
from mind_dist.dataset.cleaning import keys_of, parse_ids
from mind_dist.dataset.columns import ColumnKind, Values, read_column
from mind_dist.dataset.continuous import Standard
from mind_dist.dataset.parquet import FeatureInfo
from mind_dist.dataset.provenance import Coverage
from mind_dist.dataset.raw_log import plain, read_all
from mind_dist.errors import DatasetError
from mind_dist.keys import IdType, feature_key
from mind_dist.records import Keys
from mind_dist.strict_json import to_json


@dataclass(frozen=True)
class Features:
    """Features of N items or users.

    Attributes:
        infos: What the F features are.
        keys: A table of the keys each row has: `row` [n], `feature` [n] (its place in `infos`), `key` [n].
        values: The continuous features in the order of `infos`, standardised; NaN where missing, [C, N].
        columns: The raw feature and display columns, N rows each.
        coverage: How many of the rows have a value, for the ids and then for each column.
    """

    infos: tuple[FeatureInfo, ...]
    keys: NDArray[np.void]
    values: tuple[NDArray[np.float32], ...]
    columns: dict[str, pa.Array]
    coverage: tuple[Coverage, ...] = ()


_KEY = np.dtype([("row", np.int64), ("feature", np.int64), ("key", np.int64)])


def read_features(
    config: MetadataConfig,
    id_column: str,
    id_type: IdType,
    keys: Keys,
    of_log: NDArray[np.bool_] | None = None,
    *,
    in_train: NDArray[np.bool_] | None = None,
    log_id: str = "",
) -> Features:
    """Read metadata and align it with `keys`; a key without a row has no features, and of several rows the first counts.

    Args:
        config: Where the metadata is.
        id_column: Column of the ids, unless the config names one.
        id_type: What ids are.
        keys: What to read, [N].
        of_log: Which of them the log has, [N]; None for all. Coverage is theirs.
        in_train: Which of them training sees, [N]; None for all. Buckets are cut by their numbers, and these are
            standardised by theirs.
        log_id: An id of the log, for the message that none is in the metadata.

    Raises:
        DatasetError: A file is missing, torn or lacks a column; no id of the log is in it; or a column has a type or
            values that cannot be used.
    """
    of_log, in_train = (np.ones(len(keys), np.bool_) if which is None else which for which in (of_log, in_train))
    sources = {feature.name: feature.column or feature.name for feature in config.features} | config.display_columns
    id_name = config.id_column or id_column
    table = read_all(config, {"": id_name, **sources})
    ids = plain(table[""].combine_chunks())
    rows = rows_of(ids, id_type, keys)
    coverage = _id_coverage(config, id_name, ids, id_type, rows.filter(pa.array(of_log)), log_id=log_id)
    kinds: dict[str, ColumnKind] = dict.fromkeys(sources, "display")
    kinds |= {feature.name: feature.kind for feature in config.features}
    separators = {feature.name: feature.separator for feature in config.features}
    columns = {}
    for name, source in sources.items():
        raw = table[name].combine_chunks().take(rows)
        columns[name] = read_column(raw, kinds[name], source, separators.get(name, ""), config.decimal)
        coverage.append(_coverage(name, source, raw, columns[name], of_log))
    return _build(config.features, columns, in_train, tuple(coverage))


def _id_coverage(
    config: MetadataConfig, name: str, ids: pa.Array, id_type: IdType, rows: pa.Array, *, log_id: str
) -> list[Coverage]:
    """Return how many of the log's ids the metadata has.

    Args:
        config: Where the metadata is.
        name: Its column of ids.
        ids: The ids there.
        id_type: What ids are.
        rows: The row of each id of the log, null where there is none.
        log_id: An id of the log.

    Raises:
        DatasetError: It has none of them.
    """
    unusable = pc.and_(ids.is_valid(), parse_ids(ids, id_type).is_null())
    bad = ids.filter(unusable)
    num_found = len(rows) - rows.null_count
    if len(rows) and not num_found and len(ids.drop_null()):
        problem = (
            f"column {name} has none of the log's {len(rows):,} ids: it has {ids.drop_null()[0]}, the log {log_id}"
        )
        raise DatasetError(", ".join(config.paths), f"{problem}; set id_column, or mend the ids")
    if pa.types.is_uint64(ids.type) and id_type == "int64" and len(bad):
        problem = f"column {name} has {bad[0]}, above the largest int64: set id_type to string"
        raise DatasetError(", ".join(config.paths), problem)
    example = str(bad[0]) if len(bad) else ""
    return [Coverage(name, "id", num_found, rows.null_count, len(bad), _num_distinct(ids), example=example)]


def _coverage(name: str, source: str, raw: pa.Array, column: Values, of_log: NDArray[np.bool_]) -> Coverage:
    """Return how many of the log's items or users have a value in a column.

    Raises:
        DatasetError: Some have a value, but none that can be used.
    """
    present = _present(column.values)
    unusable = raw.filter(pa.array(column.unusable))
    if len(unusable) and not present.any():
        problem = f"has no number or time, but values such as {str(unusable[0])!r}{_comma_advice(str(unusable[0]))}"
        raise DatasetError(f"column {source}", problem)
    values = pc.list_flatten(column.values) if pa.types.is_list(column.values.type) else column.values
    return Coverage(
        name,
        "column",
        int((present & of_log).sum()),
        int((~present & ~column.unusable & of_log).sum()),
        int((column.unusable & of_log).sum()),
        _num_distinct(values),
        column.num_cut,
        str(unusable[0]) if len(unusable) else "",
    )


def _comma_advice(value: str) -> str:
    return ": set decimal to ','" if "," in value and any(c.isdigit() for c in value) else ""


def _num_distinct(values: pa.Array) -> int:
    """Return how many distinct values there are, but for null and empty ones."""
    known = values.drop_null().unique()
    return len(known.filter(pc.not_equal(known, ""))) if pa.types.is_string(known.type) else len(known)


def _present(values: pa.Array) -> NDArray[np.bool_]:
    """Tell which values are neither null nor empty."""
    if pa.types.is_list(values.type):
        filled = pc.greater(pc.list_value_length(values), 0)
    elif pa.types.is_string(values.type):
        filled = pc.not_equal(values, "")
    else:
        filled = values.is_valid()
    return np.asarray(filled.fill_null(False), dtype=np.bool_)


def no_features() -> Features:
    """Return the features of anything without metadata."""
    return Features((), np.empty(0, _KEY), (), {})


def bags(features: Features, num_rows: int) -> pa.Array:
    """Return the keys of each row as a list, [num_rows]."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(features.keys["row"], minlength=num_rows))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(features.keys["key"], pa.int64()))


def feature_values(features: Features) -> pa.Array:
    """Return the continuous features of each row as a list of one length, null where missing, [N] of C."""
    matrix = np.stack(features.values, axis=1)
    flat = pa.array(matrix.reshape(-1), pa.float32(), from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def profiles(features: Features, num_rows: int) -> pa.Array:
    """Return one key per feature for each row as a list, 0 where missing, [num_rows] of F."""
    matrix = np.zeros((num_rows, len(features.infos)), dtype=np.int64)
    matrix[features.keys["row"], features.keys["feature"]] = features.keys["key"]
    offsets = np.arange(num_rows + 1, dtype=np.int32) * len(features.infos)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def raw_profiles(features: Features, num_rows: int) -> pa.Array:
    """Return the values that the features were made of as a JSON object for each row, missing ones left out."""
    names = [info.name for info in features.infos]
    columns = [features.columns[name].to_pylist() for name in names]
    rows = zip(*columns, strict=True) if names else [()] * num_rows
    return pa.array(to_json({n: v for n, v in zip(names, row, strict=True) if v is not None}) for row in rows)


def rows_of(ids: pa.Array, id_type: IdType, keys: Keys) -> pa.Array:
    """Return the first row of each key, null where no row has it."""
    parsed = parse_ids(plain(ids), id_type)
    rows = np.flatnonzero(np.asarray(parsed.is_valid()))
    distinct, first = np.unique(keys_of(pa.chunked_array([parsed.drop_null()])), return_index=True)
    if not len(distinct):
        return pa.nulls(len(keys), pa.int64())
    places = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
    return pa.array(rows[first[places]], mask=distinct[places] != keys)


def _build(
    configs: Sequence[FeatureConfig],
    columns: dict[str, Values],
    in_train: NDArray[np.bool_],
    coverage: tuple[Coverage, ...],
) -> Features:
    infos, keys, continuous, num_clipped = [], [np.empty(0, _KEY)], [], {}
    for place, config in enumerate(configs):
        values = columns[config.name].values
        seen, boundaries, standard = values.filter(pa.array(in_train)), tuple[float, ...](), Standard()
        if config.kind == "continuous":
            standard = Standard.fit(seen, config.scale)
            standardised, num_clipped[config.name] = standard.apply(values)
            continuous.append(standardised)
        if config.kind == "buckets" or config.bucketed:
            boundaries = quantile_boundaries(seen, config.num_buckets)
            keys.append(_keys(config.name, place, _buckets(values, boundaries)))
        elif config.kind != "continuous":
            keys.append(_keys(config.name, place, _words(values) if config.kind == "words" else values))
        infos.append(FeatureInfo(config.name, config.kind, boundaries, **dataclasses.asdict(standard)))
    ordered = np.sort(np.concatenate(keys), order=["row", "feature", "key"])
    coverage = tuple(dataclasses.replace(each, num_clipped=num_clipped.get(each.name, 0)) for each in coverage)
    read = {name: column.values for name, column in columns.items()}
    return Features(tuple(infos), ordered, tuple(continuous), read, coverage)


def _words(texts: pa.Array) -> pa.Array:
    """Return the words of each text, small letters alike: letters, digits, marks and apostrophes within them.

    >>> _words(pa.array(["Rock'n'Roll: GRÖSSE 42!", None])).to_pylist()
    [["rock'n'roll", 'grösse', '42', ''], None]
    """
    return pc.split_pattern_regex(pc.utf8_lower(texts.cast(pa.string())), r"[^\pL\pN\pM']+")


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
    numbers = np.asarray(values.cast(pa.float64(), safe=False).fill_null(0.0))
    buckets = np.searchsorted(np.array(boundaries), numbers, side="left")
    return pa.array(buckets, pa.int64(), mask=np.asarray(values.is_null()))


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
