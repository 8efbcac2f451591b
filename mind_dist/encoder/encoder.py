"""A model version at work: behavior sequences → interests, and the vectors of its items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.checkpoint import DENSE, Manifest, ModelVersion, VersionParts
from mind_dist.config import ModelConfig, cache_directory
from mind_dist.encoder.histories import Histories, Padded
from mind_dist.encoder.items import ServedItems, served_items
from mind_dist.encoder.node_cache import mapped_items
from mind_dist.encoder.one_thread import one_thread
from mind_dist.encoder.shapes import Chunk, Shapes
from mind_dist.errors import VersionError
from mind_dist.keys import no_context
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import score_vectors
from mind_dist.model.item_tower import ItemTower
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence, KeyRows, Keys

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

_BLOCK_USERS = 1024
"""Users whose behaviors are looked up at once: bounds what a call holds beside its result."""


class UserInterests(NamedTuple):
    """A user's interests.

    Attributes:
        vectors: Only real ones, [k, D]; k is 0 when no behavior is of a known item.
        weights: Share of the behaviors behind each, [k].
    """

    vectors: Vectors
    weights: Vectors


class InterestEncoder:
    """A model version at work.

    Safe to use from several threads: nothing changes after loading.

    Args:
        version: An opened version, or the state of a run.
        items: What finds, with the item tower, what is needed of items; the default takes it from the version, into
            memory of this process alone.

    Raises:
        VersionError: A part of the version does not fit its config.
    """

    def __init__(
        self, version: VersionParts, items: Callable[[VersionParts, ItemTower], ServedItems] = served_items
    ) -> None:
        self.manifest: Manifest = version.manifest
        self.config: ModelConfig = version.model_config()
        self.max_behaviors: int = version.training_config().max_behaviors
        self._model = _load_model(version, self.config)
        found = items(version, self._model.item_tower)
        self._items, self._features, self.catalog = found.items, found.features, found.catalog
        self._shapes = Shapes(self._model, self.config, self.max_behaviors)
        self._nothing = UserInterests(np.zeros((0, self.config.dim), np.float32), np.zeros(0, np.float32))

    @classmethod
    def load(cls, uri: str) -> InterestEncoder:
        """Open, verify and load a version; what it needs of items is shared with other processes of this node.

        Raises:
            VersionError: It is missing, torn or altered.
        """
        version = ModelVersion.open(uri, verify=False)
        version.verify([DENSE])
        return cls(version, lambda _, tower: _shared_items(version, tower))

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
        searched = score_vectors(self._items.vectors[:, -self.config.dim :], normalize=self.config.normalize)
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
        blocks = (sequences[start : start + _BLOCK_USERS] for start in range(0, len(sequences), _BLOCK_USERS))
        return [user for block in blocks for user in self._encode_block(block)]

    def _encode_block(self, sequences: Sequence[BehaviorSequence]) -> list[UserInterests]:
        num_features = len(self.config.behavior_features)
        histories = Histories(sequences, self._items, num_features, self.max_behaviors)
        profiles, contexts = self._profile_keys(sequences), self._context_keys(sequences)
        found = [self._nothing] * len(sequences)
        for chunk in self._shapes.chunks(histories.counts):
            with one_thread(), torch.inference_mode():
                behaviors = self._behaviors(histories.padded(chunk))
                joined = self._profiles(_padded(profiles, chunk)), self._contexts(_padded(contexts, chunk))
                interests = self._model(behaviors, *joined)
            for user, one in zip(chunk.users.tolist(), _split(interests, len(chunk.users)), strict=True):
                found[user] = one
        return found

    def _behaviors(self, padded: Padded) -> Behaviors:
        vectors = self._items.at(padded.rows, self.config.dim)
        if padded.features.shape[2]:
            vectors = vectors + self._features.of(padded.features, self.config.dim).sum(dim=2)
        return Behaviors(vectors, torch.from_numpy(padded.keys), torch.from_numpy(padded.rows < len(self._items)))

    def _profile_keys(self, sequences: Sequence[BehaviorSequence]) -> KeyRows:
        keys = np.zeros((len(sequences), self.config.num_profile_features), dtype=np.int64)
        for user, sequence in enumerate(sequences if keys.shape[1] else ()):
            if len(sequence.profile_keys):
                keys[user, :] = _checked_profile(sequence, keys.shape[1])
        return keys

    def _context_keys(self, sequences: Sequence[BehaviorSequence]) -> KeyRows:
        nothing = no_context(self.config.context_features)
        keys = np.tile(nothing, (len(sequences), 1))
        for user, sequence in enumerate(sequences if len(nothing) else ()):
            if len(sequence.context_keys):
                keys[user, :] = _checked_context(sequence, len(nothing))
        return keys

    def _profiles(self, keys: KeyRows) -> Tensor | None:
        return self._features.of(keys, self.config.dim) if keys.shape[1] else None

    def _contexts(self, keys: KeyRows) -> Tensor | None:
        """Return the vectors of each context side by side; of what is not known, what was learned for that."""
        if not keys.shape[1]:
            return None
        rows, nothing = self._features.rows(keys), no_context(self.config.context_features)
        known = np.where(rows == len(self._features), nothing, keys)
        return self._features.of(known, self.config.dim).flatten(start_dim=1)


def _padded(keys: KeyRows, chunk: Chunk) -> KeyRows:
    """Return the keys of a chunk's users; zeros where there is none."""
    padded = np.zeros((chunk.num_users, keys.shape[1]), dtype=np.int64)
    padded[: len(chunk.users)] = keys[chunk.users]
    return padded


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


def _split(interests: Interests, num_users: int) -> Iterator[UserInterests]:
    """Yield the real interests of the first users; they come before masked ones."""
    vectors, weights = interests.vectors.numpy(), interests.weights.numpy()
    for user, count in enumerate(interests.mask[:num_users].sum(dim=1).tolist()):
        yield UserInterests(vectors[user, :count].copy(), weights[user, :count].copy())


def _load_model(version: VersionParts, config: ModelConfig) -> MultiInterestModel:
    model = MultiInterestModel(config).eval()
    try:
        model.load_state_dict(version.dense())
    except RuntimeError as error:
        raise VersionError(version.uri, f"its parameters do not fit its config: {error}") from error
    return model


def _shared_items(version: ModelVersion, tower: ItemTower) -> ServedItems:
    """Return what is needed of items, shared by this node's processes where it has a folder for that."""
    directory = cache_directory()
    try:
        return mapped_items(version, tower, directory)
    except OSError as error:
        fields = {"directory": str(directory), "error": error}
        logger.warning("items are not shared on this node: each process has its own", extra={"fields": fields})
    version.verify()
    return served_items(version, tower)
