"""A user's state → what a model version reads of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mind_dist.checkpoint import Manifest
from mind_dist.config import ModelConfig, parse
from mind_dist.dataset.parquet import FeatureInfo
from mind_dist.dataset.profiles import profile_keys
from mind_dist.keys import behavior_key
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.states.record import UserState

_EVENT_TYPE = "event_type"


@dataclass(frozen=True)
class Reading:
    """How a model version reads states.

    Attributes:
        kept: Names of the features that states keep of each behavior, the type first.
        behavior_features: Those that the version reads.
        event_types: Keys of the types of events that are behaviors to it; None for all.
        max_behaviors: The longest history it reads.
        profile_features: Features of its profiles.
    """

    kept: tuple[str, ...]
    behavior_features: tuple[str, ...]
    event_types: Keys | None
    max_behaviors: int
    profile_features: Sequence[FeatureInfo]

    @classmethod
    def of(cls, manifest: Manifest, config: ModelConfig, max_behaviors: int, kept: tuple[str, ...]) -> Self:
        """Return how a version reads states that keep these features of behaviors."""
        types = [behavior_key(_EVENT_TYPE, each) for each in manifest.event_types]
        infos = [
            parse(FeatureInfo, each, where="profile_features") for each in manifest.config.get("profile_features", ())
        ]
        event_types = np.array(types, dtype=np.int64) if types else None
        return cls(kept, config.behavior_features, event_types, max_behaviors, infos)

    @property
    def unkept(self) -> list[str]:
        """Features of behaviors that the version reads and states do not keep: they are missing to it."""
        return [name for name in self.behavior_features if name not in self.kept]

    def sequence(self, state: UserState) -> BehaviorSequence:
        """Return the newest of the behaviors that are any to the version, as it reads them."""
        history = state.history
        if self.event_types is not None:
            history = history.take(np.isin(history.behavior_keys[:, 0], self.event_types))
        history = history.without_repeats().newest(self.max_behaviors)
        rows = [self._column(history, name) for name in self.behavior_features]
        kinds = np.stack(rows, axis=1) if rows else np.empty((len(history), 0), dtype=np.int64)
        return dataclasses.replace(history, behavior_keys=kinds, profile_keys=self._profile(state.profile))

    def _column(self, history: BehaviorSequence, name: str) -> Keys:
        if name not in self.kept:
            return np.zeros(len(history), dtype=np.int64)
        return history.behavior_keys[:, self.kept.index(name)]

    def _profile(self, profile: Mapping[str, Any]) -> Keys:
        return profile_keys(self.profile_features, profile)
