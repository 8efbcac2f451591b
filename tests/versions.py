"""Tiny real model versions: a random MIND, a catalog with a genre and a title per item, trained on nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mind_dist.checkpoint import ModelVersion, TableRows, VersionWriter, WatchState, seal
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.dataset.event_values import VALUE_SCHEMA, value_keys
from mind_dist.dataset.item_catalog import AVAILABILITY_LIMITS, ITEM_SCHEMA, ItemCatalog
from mind_dist.encoder import InterestEncoder
from mind_dist.keys import NO_FEATURES, EventFeatures, IdType, id_key
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.storage import Directory

GENRES = ("comedy", "drama", "war")


def original_id(item: int, id_type: IdType) -> int | str:
    """Return an item's outside id."""
    return item if id_type == "int64" else f"item-{item}"


def tiny_catalog(
    num_items: int, id_type: IdType, available: Mapping[int, tuple[int, int]] | None = None
) -> ItemCatalog:
    ids = [original_id(item, id_type) for item in range(num_items)]
    keys = [id_key(each, id_type) for each in ids]
    columns = [keys, [str(each) for each in ids], [1] * num_items, [[]] * num_items]
    table = pa.table(columns, schema=ITEM_SCHEMA)
    table = table.append_column("genre", pa.array([GENRES[item % len(GENRES)] for item in range(num_items)]))
    table = table.append_column("title", pa.array([f"title {item}" for item in range(num_items)]))
    if available is not None:
        bounds = [available.get(item, tuple(AVAILABILITY_LIMITS.values())) for item in range(num_items)]
        for name, column in zip(AVAILABILITY_LIMITS, zip(*bounds, strict=True), strict=True):
            table = table.append_column(name, pa.array(column, pa.int64()))
    return ItemCatalog(table.sort_by("item_id"))


def tiny_version(
    directory: Path,
    *,
    seed: int = 1,
    num_items: int = 60,
    id_type: IdType = "int64",
    max_behaviors: int = 8,
    available: Mapping[int, tuple[int, int]] | None = None,
    watch: WatchState | None = None,
    features: EventFeatures = NO_FEATURES,
    values: Sequence[tuple[str, str]] = (),
) -> str:
    """Write a version with random parameters and return its URI; the seed makes its name.

    It reads these features of events, and knows these values of them, by name.

    With `available` the catalog has when items are: those named from and until so many milliseconds, others always.
    """
    config = ModelConfig(
        dim=8,
        num_interests=3,
        hidden_dims=(16,),
        behavior_features=features.behavior,
        context_features=features.context,
    )
    catalog = tiny_catalog(num_items, id_type, available)
    known = pa.Table.from_pylist([{"name": name, "value": value} for name, value in values], schema=VALUE_SCHEMA)
    others = np.unique(value_keys(known, features))
    torch.manual_seed(seed)
    keys = np.concatenate([catalog.keys, others])
    vectors = torch.randn(len(keys), config.dim).numpy()
    counts = np.repeat([1, 0], [num_items, len(others)])
    writer = VersionWriter(Directory.at(directory))
    model = MultiInterestModel(config)
    if features != NO_FEATURES:  # the head's last layer begins with zeros, and would not see a context
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    writer.write_dense(model.state_dict())
    writer.write_optimizer({})
    writer.write_item_shard(0, 1, [TableRows(keys, vectors, vectors, vectors, counts, counts, counts)])
    writer.write_catalog(catalog)
    sections = {"model": dump(config), "training": dump(TrainingConfig(max_behaviors=max_behaviors))}
    columns = {"item_features": ["genre"], "item_columns": ["title"], "profile_features": []}
    seal(
        writer.directory,
        writer.files,
        config={**sections, **columns},
        id_type=id_type,
        step=seed,
        watermark_ms=0,
        positions={},
        metrics={},
        source="random numbers",
        watch=watch or WatchState(),
    )
    return writer.directory.uri


_encoders: dict[str, InterestEncoder] = {}


def loaded(uri: str) -> InterestEncoder:
    """Load a version, or return the encoder of an earlier one with the very same files: nothing changes in it."""
    manifest = ModelVersion.open(uri, verify=False).manifest
    name = f"{manifest.files} {manifest.config}"
    if name not in _encoders:
        _encoders[name] = InterestEncoder.load(uri)
    return _encoders[name]
