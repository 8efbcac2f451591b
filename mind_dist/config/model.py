"""Settings of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.encoders import EncoderConfig, NoEncoderConfig
from mind_dist.config.extraction import ExtractionConfig, MindConfig
from mind_dist.config.item_tower import ItemTowerConfig
from mind_dist.limits import MAX_EVENT_FEATURES

_NAMES = f"of different names, at most {MAX_EVENT_FEATURES}"

ModelKind = Literal["two_tower", "mind", "comirec_dr", "comirec_sa", "causal"]
"""How interests are extracted: see `mind_dist.model.multi_interest`."""


@with_config(STRICT)
@dataclass(frozen=True)
class ModelConfig:
    """The multi-interest model: what stands before, in and behind the extraction of interests."""

    extraction: ExtractionConfig = MindConfig()  # noqa: RUF009 - frozen
    """How interests are extracted."""
    encoder: EncoderConfig = NoEncoderConfig()  # noqa: RUF009 - frozen
    """A causal encoder that behaviors go through before extraction."""
    dim: int = 64
    """Width D of item and interest vectors."""
    num_interests: int = 4
    """Largest number of interests K of a user."""
    adaptive_interests: bool = True
    """Give a user with n behaviors max(1, min(K, floor(log2 n))) interests instead of K."""
    separate_item_vectors: bool = False
    """Give items one vector as behaviors and another one to be scored and searched by."""
    hidden_dims: tuple[int, ...] = (128,)
    """Widths of the layers between [capsule ; profile] and what is added to the capsule to make the interest. None
    leaves the capsule as it is, where nothing is joined to it: no profile, no context, not `causal`'s state."""
    dropout: float = 0.0
    """Share of the values dropped, in training, before and in the layers."""
    num_profile_features: int = 0
    """Profile features P joined to each capsule; set from the dataset by the train job."""
    behavior_features: tuple[str, ...] = ()
    """Features of events (`log.behavior` of the dataset) of which a learned vector is added to each behavior, so that a
    purchase is not a view: `event_type`, or names of their `context`."""
    context_features: tuple[str, ...] = ()
    """Names of the context (`log.context` of the dataset) in which interests are asked for. A learned vector of each is
    joined to each capsule, and another one where a context is not given."""
    normalize: bool = True
    """Scale interest and item vectors to length 1; scores are then cosines."""
    item_tower: ItemTowerConfig = ItemTowerConfig()  # noqa: RUF009 - frozen
    """How an item's vector is made of what is known of it."""

    @property
    def kind(self) -> ModelKind:
        """How interests are extracted."""
        return self.extraction.kind

    @property
    def context_dim(self) -> int:
        """Width of the context vector that is joined to each capsule."""
        return self.dim * len(self.context_features)

    @property
    def row_dim(self) -> int:
        """Width of a table row: D, or 2 · D with separate item vectors."""
        return self.dim * (2 if self.separate_item_vectors else 1)

    def __post_init__(self) -> None:
        for name in ("dim", "num_interests"):
            check(getattr(self, name) >= 1, name, "at least 1")
        check(all(width >= 1 for width in self.hidden_dims), "hidden_dims", "at least 1 each")
        check(0 <= self.dropout < 1, "dropout", "0 or more and below 1")
        check(self.num_profile_features >= 0, "num_profile_features", "0 or more")
        for name in ("behavior_features", "context_features"):
            found = getattr(self, name)
            check(len(set(found)) == len(found) <= MAX_EVENT_FEATURES and all(found), name, _NAMES)
        layered = self.hidden_dims or self.num_profile_features or self.context_dim or self.encoder.kind != "none"
        layered = layered or self.kind == "causal"
        check(bool(layered) or not self.dropout, "dropout", "0 without layers: no hidden_dims, no encoder")
        if self.extraction.kind == "two_tower":
            check(self.num_interests == 1, "num_interests", "1 for a two_tower")
            learned = layered or self.extraction.recency or self.extraction.pooling == "attention"
            check(bool(learned), "hidden_dims", "at least one layer for a two_tower that learns nothing else")
