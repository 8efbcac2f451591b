"""BehaviorSequence → interests, with one loaded model version: what evaluation, publishing and serving share.

The same history gives the same vectors to the last bit, whatever else is in the batch: the model always runs on
tensors of one shape, so that every user goes through the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.checkpoint import Manifest, ModelVersion, TableRows, VersionParts
from mind_dist.config import ModelConfig
from mind_dist.dataset.parquet import ItemCatalog
from mind_dist.errors import VersionError
from mind_dist.keys import no_context
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import COLD_KEY, score_vectors
from mind_dist.model.item_tower import ItemParts, ItemTower, item_chunks
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence, KeyRows, Keys, no_keys

Vectors = NDArray[np.float32]

CHUNK_USERS = 32
"""Users the model always runs on at once, padded where there are fewer."""


class UserInterests(NamedTuple):
    """A user's interests.

    Attributes:
        vectors: Only real ones, [k, D]; k is 0 when no behavior is of a known item.
        weights: Share of the behaviors behind each, [k].
    """

    vectors: Vectors
    weights: Vectors


@dataclass(frozen=True)
class _Vectors:
    """Vectors by key.

    Attributes:
        keys: Ascending, [N].
        vectors: One a key and zeros at the end, for keys that are not there, [N + 1, D].
    """

    keys: Keys
    vectors: Tensor

    @classmethod
    def of(cls, keys: Keys, vectors: Tensor) -> _Vectors:
        return cls(keys, torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])]))

    def rows(self, keys: Keys) -> Keys:
        """Return each key's row, that of the zeros where it is not there."""
        if not len(self.keys):
            return np.zeros(keys.shape, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, len(self.keys))


class InterestEncoder:
    """A model version at work.

    Safe to use from several threads: nothing changes after loading.

    Args:
        version: An opened version, or the state of a run.

    Raises:
        VersionError: A part of the version does not fit its config.
    """

    def __init__(self, version: VersionParts) -> None:
        self.manifest: Manifest = version.manifest
        self.config: ModelConfig = version.model_config()
        self.max_behaviors: int = version.training_config().max_behaviors
        self.catalog: ItemCatalog = version.catalog()
        self._model = _load_model(version, self.config)
        _check_values(version, self.config, self.catalog)
        table = version.items()
        self._table = _Vectors.of(table.keys, torch.from_numpy(table.vectors))
        self._items = _item_vectors(self._model.item_tower, table, self.catalog)

    @classmethod
    def load(cls, uri: str) -> InterestEncoder:
        """Open, verify and load a version.

        Raises:
            VersionError: It is missing, torn or altered.
        """
        return cls(ModelVersion.open(uri))

    @property
    def model_version(self) -> str:
        """Name of the version."""
        return self.manifest.model_version

    @property
    def item_keys(self) -> Keys:
        """Every item that has a vector, from the catalog or seen in training alone; ascending, [N]."""
        return self._items.keys

    @cached_property
    def item_vectors(self) -> Vectors:
        """The vectors items are searched by, of length 1 when the config normalises, [N, D]."""
        searched = score_vectors(self._items.vectors[:-1, -self.config.dim :], normalize=self.config.normalize)
        return np.asarray(searched.numpy(), dtype=np.float32)

    @property
    def num_unknown_items(self) -> int:
        """Items of the catalog without a vector: training has seen neither them nor any of their features."""
        return int((~self.knows(self.catalog.keys)).sum())

    def knows(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which keys are items that have a vector, [n]."""
        return self._items.rows(keys) < len(self.item_keys)

    def encode(self, sequences: Sequence[BehaviorSequence]) -> list[UserInterests]:
        """Return the interests of some users, each from its newest `max_behaviors` behaviors of known items.

        A sequence without profile keys is one whose profile is missing whole, one without context keys asks in no
        context, and a value that training has not seen is missing.

        Raises:
            ValueError: A sequence has profile, behavior or context keys, but not as many as the model has such features.
        """
        return [user for chunk in _chunks(sequences) for user in self._encode_chunk(chunk)]

    def _encode_chunk(self, sequences: Sequence[BehaviorSequence]) -> Iterator[UserInterests]:
        with torch.inference_mode():
            interests = self._model(self._behaviors(sequences), self._profiles(sequences), self._contexts(sequences))
        return _split(interests, len(sequences))

    def _behaviors(self, sequences: Sequence[BehaviorSequence]) -> Behaviors:
        shape = (CHUNK_USERS, self.max_behaviors)
        keys, rows = np.zeros(shape, dtype=np.int64), np.full(shape, len(self.item_keys))
        kinds = np.zeros((*shape, len(self.config.behavior_features)), dtype=np.int64)
        for user, sequence in enumerate(sequences):
            known = self._items.rows(sequence.item_keys)
            newest = np.flatnonzero(known < len(self.item_keys))[-self.max_behaviors :]
            keys[user, : len(newest)] = sequence.item_keys[newest]
            rows[user, : len(newest)] = known[newest]
            if kinds.shape[2] and sequence.behavior_keys.size:
                kinds[user, : len(newest)] = _checked_kinds(sequence, kinds.shape[2])[newest]
        vectors = self._items.vectors[torch.from_numpy(rows), : self.config.dim]
        if kinds.shape[2]:
            vectors = vectors + self._table.vectors[torch.from_numpy(self._rows(kinds)), : self.config.dim].sum(dim=2)
        return Behaviors(vectors, torch.from_numpy(keys), torch.from_numpy(rows < len(self.item_keys)))

    def _profiles(self, sequences: Sequence[BehaviorSequence]) -> Tensor | None:
        if not self.config.num_profile_features:
            return None
        keys = np.zeros((CHUNK_USERS, self.config.num_profile_features), dtype=np.int64)
        for user, sequence in enumerate(sequences):
            if len(sequence.profile_keys):
                keys[user, :] = _checked_profile(sequence, self.config.num_profile_features)
        return self._table.vectors[torch.from_numpy(self._rows(keys)), : self.config.dim]

    def _contexts(self, sequences: Sequence[BehaviorSequence]) -> Tensor | None:
        """Return the vectors of each context side by side; of what is not known, what was learned for that."""
        nothing = no_context(self.config.context_features)
        if not len(nothing):
            return None
        keys = np.tile(nothing, (CHUNK_USERS, 1))
        for user, sequence in enumerate(sequences):
            if len(sequence.context_keys):
                keys[user, :] = _checked_context(sequence, len(nothing))
        rows = self._table.rows(keys)
        rows = np.where(rows == len(self._table.keys), self._table.rows(nothing), rows)
        return self._table.vectors[torch.from_numpy(rows), : self.config.dim].flatten(start_dim=1)

    def _rows(self, keys: Keys) -> Keys:
        """Return each key's row of the table; that of the zeros for a key of 0, and where it is not there."""
        return np.where(keys == 0, len(self._table.keys), self._table.rows(keys))


def _checked_kinds(sequence: BehaviorSequence, num_features: int) -> KeyRows:
    if sequence.behavior_keys.shape != (len(sequence), num_features):
        found = f"user {sequence.user_key} has behavior keys of shape {list(sequence.behavior_keys.shape)}"
        raise ValueError(
            f"{found}, not {[len(sequence), num_features]}: the model has {num_features} behavior features"
        )
    return sequence.behavior_keys


def _checked_context(sequence: BehaviorSequence, num_features: int) -> Keys:
    if len(sequence.context_keys) != num_features:
        found = f"user {sequence.user_key} has {len(sequence.context_keys)} context keys"
        raise ValueError(f"{found}, the model has {num_features} context features")
    return sequence.context_keys


def _checked_profile(sequence: BehaviorSequence, num_features: int) -> Keys:
    if len(sequence.profile_keys) != num_features:
        found = f"user {sequence.user_key} has {len(sequence.profile_keys)} profile keys"
        raise ValueError(f"{found}, the model has {num_features} profile features")
    return sequence.profile_keys


def _chunks(sequences: Sequence[BehaviorSequence]) -> Iterator[Sequence[BehaviorSequence]]:
    for start in range(0, len(sequences), CHUNK_USERS):
        yield sequences[start : start + CHUNK_USERS]


def _split(interests: Interests, num_users: int) -> Iterator[UserInterests]:
    """Yield the real interests of the first users."""
    vectors, masks, weights = interests.vectors.numpy(), interests.mask.numpy(), interests.weights.numpy()
    for user in range(num_users):
        yield UserInterests(vectors[user][masks[user]], weights[user][masks[user]])


def _load_model(version: VersionParts, config: ModelConfig) -> MultiInterestModel:
    model = MultiInterestModel(config).eval()
    try:
        model.load_state_dict(version.dense())
    except RuntimeError as error:
        raise VersionError(version.uri, f"its parameters do not fit its config: {error}") from error
    return model


def _check_values(version: VersionParts, config: ModelConfig, catalog: ItemCatalog) -> None:
    found, expected = catalog.feature_values.shape[1], config.item_tower.num_continuous
    if found != expected:
        problem = f"its catalog has {found} continuous features of items, its config says {expected}"
        raise VersionError(version.uri, problem)


def _item_vectors(tower: ItemTower, table: TableRows, catalog: ItemCatalog) -> _Vectors:
    """Return the vectors of all items that have one, as the tower gives them.

    A cold item is made of its features alone. One without any has no vector, not even that of the shared cold row:
    nothing is known of it that could tell it from others. Nor has any item that of a cold row which was never trained.
    """
    table = _without_untrained_cold_row(table)
    keys = np.union1d(catalog.keys, table.keys[table.counts > 0])
    known, vectors = [no_keys()], [torch.zeros(0, table.vectors.shape[1])]
    for chunk in item_chunks(tower, torch.from_numpy(table.vectors), table.keys, keys, catalog):
        told = chunk.parts.known.numpy() & ~_is_cold_alone(chunk.keys, chunk.parts, table, catalog)
        known.append(chunk.keys[told])
        vectors.append(chunk.vectors[torch.from_numpy(told)])
    return _Vectors.of(np.concatenate(known), torch.cat(vectors))


def _without_untrained_cold_row(table: TableRows) -> TableRows:
    """Leave out a cold row without a gradient: it is looked up in every step, and has a random vector then."""
    untrained = ~(table.first_moment.any(axis=1) | table.second_moment.any(axis=1))
    return table.take(np.flatnonzero(~((table.keys == COLD_KEY) & untrained)))


def _is_cold_alone(keys: Keys, parts: ItemParts, table: TableRows, catalog: ItemCatalog) -> NDArray[np.bool_]:
    """Tell which items are cold ones made of nothing but the shared cold row, [N]."""
    at = int(np.searchsorted(table.keys, COLD_KEY))
    rows = catalog.rows(keys)
    cold = np.zeros(len(keys), dtype=np.bool_)
    cold[rows >= 0] = catalog.is_cold[rows[rows >= 0]]
    alone = parts.bags.mask[:, 0] & (parts.bags.members[:, 0] == at) & parts.values.isnan().all(dim=1)
    return np.asarray(cold & alone.numpy())
