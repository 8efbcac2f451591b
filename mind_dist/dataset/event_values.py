"""Features of events in a prepared dataset: the texts that a log has for each behavior → keys.

The sequences have a list of texts for each feature, so that a replay can tell them again; `event_values.parquet` has the
values that train knows, for which a model has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.keys import EventFeatures, behavior_key, context_key, no_context
from mind_dist.records import KeyRows, Keys
from mind_dist.storage import Directory

VALUES = "event_values.parquet"

VALUE_SCHEMA = pa.schema([("name", pa.string()), ("value", pa.string())])
"""The values that a feature of events has in the train split, by its name."""


def values_column(name: str) -> str:
    """Return the column of a dataset, and of what becomes one, that has the values of a feature of events."""
    return f"{name}_values"


def event_keys(sequences: pa.Table, features: EventFeatures) -> tuple[KeyRows, KeyRows]:
    """Return keys of all behaviors of a bucket, one after the other: of their features [E, F], of their moments [E, C]."""
    num_events = len(pc.list_flatten(sequences["item_ids"]))
    nothing = np.empty((num_events, 0), dtype=np.int64)
    behavior = [_keys(sequences, name, behavior_key, num_events) for name in features.behavior]
    moments = [_keys(sequences, name, context_key, num_events) for name in features.context]
    return np.column_stack([nothing, *behavior]), np.column_stack([nothing, *moments])


def _keys(sequences: pa.Table, name: str, key_of: Callable[[str, str | None], int], num_events: int) -> Keys:
    """Return the key of a feature's value for each behavior; a dataset without the feature has none of its values."""
    if values_column(name) not in sequences.column_names:
        return np.full(num_events, key_of(name, None), dtype=np.int64)
    encoded = pc.list_flatten(sequences[values_column(name)]).combine_chunks().dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    keys = np.array([key_of(name, value) for value in values], dtype=np.int64)
    return keys[np.asarray(encoded.indices.fill_null(len(keys) - 1), dtype=np.int64)]


def value_keys(values: pa.Table, features: EventFeatures) -> Keys:
    """Return the key of each of the values (`VALUE_SCHEMA`) of some features, and of every context that is not given."""
    keys = no_context(features.context).tolist()
    for row in values.to_pylist():
        keys += [behavior_key(row["name"], row["value"])] if row["name"] in features.behavior else []
        keys += [context_key(row["name"], row["value"])] if row["name"] in features.context else []
    return np.array(keys, dtype=np.int64)


def distinct_values(sequences: pa.Table, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the distinct values of features in some sequences, each with its feature's name."""
    found = {name: pc.list_flatten(sequences[values_column(name)]).unique().drop_null().to_pylist() for name in names}
    pairs = [(name, value) for name, values in found.items() for value in values]
    return [name for name, _ in pairs], [value for _, value in pairs]


def write_values(directory: Directory, buckets: pa.Table) -> None:
    """Write `event_values.parquet` of what `distinct_values` found in each bucket (`value_names`, `values`)."""
    columns = [pc.list_flatten(buckets[name]) for name in ("value_names", "values")]
    values = pa.table(columns, schema=VALUE_SCHEMA).group_by(VALUE_SCHEMA.names).aggregate([])
    if values.num_rows:
        directory.write_table(VALUES, values.sort_by([(name, "ascending") for name in VALUE_SCHEMA.names]))
