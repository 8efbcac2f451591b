"""Versions whose interests are their users' last items: what publishing is tried with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mind_dist.checkpoint import FORMAT_VERSION, Manifest
from mind_dist.config import ModelConfig, PublishConfig
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.encoder import UserInterests
from mind_dist.index.vector_store import VectorStore, VersionInfo
from mind_dist.publishing import CatchUp, PublishReport, publish
from mind_dist.records import BehaviorSequence
from tests.toy_views import fill_users

DIM, NUM_ITEMS = 4, 30


def make_catalog() -> ItemCatalog:
    """Return the catalog of items 0, 2, 4 …; item 4 lacks every value."""
    keys = list(range(0, NUM_ITEMS, 2))

    def column(values: Callable[[int], Any], kind: pa.DataType) -> pa.Array:
        return pa.array([None if key == 4 else values(key) for key in keys], kind)

    return ItemCatalog(
        pa.table(
            {
                "item_id": pa.array(keys, pa.int64()),
                "original_id": pa.array([f"i{key}" for key in keys]),
                "count": pa.array(keys, pa.int64()),
                "feature_keys": pa.array([[key] for key in keys], pa.list_(pa.int64())),
                "feature_values": pa.array([[key / 9] for key in keys], pa.list_(pa.float32(), 1)),
                "title": column(lambda key: f"item {key}", pa.string()),
                "year": column(lambda key: 1990 + key, pa.int32()),
                "price": column(lambda key: float("nan") if key == 6 else key / 2, pa.float32()),
                "genres": column(lambda key: ["a", "b"][: key % 3], pa.list_(pa.string())),
                "adult": column(lambda key: key == 2, pa.bool_()),
            }
        )
    )


@dataclass(frozen=True)
class PlainEncoder:
    """A user's interests are the vectors of the last two behaviors it knows, turned by the version's number."""

    number: int
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    max_behaviors: int = 3
    num_profile_features: int = 1
    id_type: Literal["int64", "string"] = "string"
    dim: int = DIM
    normalize: bool = True
    event_types: tuple[str, ...] = ()
    behavior_features: tuple[str, ...] = ()
    catalog: ItemCatalog = dataclasses.field(default_factory=make_catalog)

    @property
    def manifest(self) -> Manifest:
        name = f"v{self.number:08d}_0a1b2c3d"
        settings = {"event_types": list(self.event_types)}
        return Manifest(FORMAT_VERSION, name, 5, settings, self.id_type, self.number, 9, {}, self.metrics, "toy", {})

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            dim=self.dim,
            num_interests=2,
            num_profile_features=self.num_profile_features,
            normalize=self.normalize,
            behavior_features=self.behavior_features,
        )

    @property
    def item_keys(self) -> Any:
        return np.arange(NUM_ITEMS, dtype=np.int64)

    @property
    def item_vectors(self) -> Any:
        return np.random.default_rng(self.number).normal(size=(NUM_ITEMS, self.dim)).astype(np.float32)

    def encode(self, sequences: Sequence[BehaviorSequence]) -> list[UserInterests]:
        return [self._encode(sequence.item_keys[sequence.item_keys < NUM_ITEMS][-2:]) for sequence in sequences]

    def _encode(self, keys: Any) -> UserInterests:
        return UserInterests(self.item_vectors[keys], np.full(len(keys), 0.5, dtype=np.float32))


def make_sequence(user_key: int, length: int = 5) -> BehaviorSequence:
    items = (np.arange(length, dtype=np.int64) * (user_key + 1)) % NUM_ITEMS
    return BehaviorSequence(user_key, items, np.arange(length, dtype=np.int64), np.array([user_key]))


USERS = [make_sequence(key) for key in range(7)]
SMALL = PublishConfig(batch_size=3, keep=1)


def name_of(number: int) -> str:
    return PlainEncoder(number).manifest.model_version


def updaters(store: VectorStore, encoder: PlainEncoder, users: Sequence[BehaviorSequence] = USERS) -> CatchUp:
    """Return what publishing asks where updaters have made the rows of these users by the first question."""

    def caught_up(info: VersionInfo) -> bool:
        fill_users(store, encoder, info.model_version, users)
        return True

    return caught_up


def publish_version(store: VectorStore, number: int, **settings: Any) -> PublishReport:
    encoder = settings.pop("encoder", PlainEncoder(number))
    settings = {"config": SMALL, "catch_up": updaters(store, encoder), **settings}
    return publish(store, encoder, "file:///v", **settings)
