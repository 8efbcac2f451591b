"""Settings of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check

ModelKind = Literal["two_tower", "mind", "comirec_dr", "comirec_sa", "causal"]
"""How interests are extracted: see `mind_dist.model.multi_interest`."""


RoutingStart = Literal["content_keyed", "farthest_point", "zeros"]
"""Where dynamic routing starts."""


@with_config(STRICT)
@dataclass(frozen=True)
class ModelConfig:
    """The multi-interest model: what stands before, in and behind the extraction of interests."""

    kind: ModelKind = "mind"
    """`two_tower`: one pooled vector; `mind`: B2I routing (arXiv 1904.08030); `comirec_dr`: routing with a map per
    position and interest, `comirec_sa`: self-attention (both arXiv 2005.09347); `causal`: from the sequence encoder's
    state and a view of the past for each interest, so that every position of a history is trained in one pass."""
    dim: int = 64
    """Width D of item and interest vectors."""
    num_interests: int = 4
    """Largest number of interests K of a user."""
    adaptive_interests: bool = True
    """Give a user with n behaviors max(1, min(K, floor(log2 n))) interests instead of K."""
    separate_item_vectors: bool = False
    """Give items one vector as behaviors and another one to be scored and searched by."""
    recency: bool = False
    """Add a learned vector for how many behaviors ago it was to each behavior (but for `causal`, whose views weigh
    behaviors by that)."""
    max_recency: int = 200
    """Older behaviors share what is learned for the oldest of so many: these vectors, `comirec_dr`'s maps, lags."""
    sequence_encoder: Literal["none", "lag_kernels", "gru", "transformer"] = "none"
    """A causal encoder that behaviors go through before extraction."""
    encoder_dim: int = 256
    """Width of the encoder's hidden layer."""
    encoder_layers: int = 1
    """Layers of the encoders `gru` and `transformer`."""
    num_lag_kernels: int = 4
    """Weighted means of the past, each with its own learned weight per lag, that `lag_kernels` sees."""
    pooling: Literal["mean", "attention"] = "mean"
    """How `two_tower` pools behaviors."""
    routing_iterations: int = 3
    """Iterations of the dynamic routing."""
    routing_start: RoutingStart = "content_keyed"
    """Where routing starts: numbers keyed by (item, interest), behaviors far from each other (Pinterest DCM, arXiv
    2506.23060), or zeros (`comirec_dr`, whose maps differ by interest)."""
    attention_dim: int = 0
    """Hidden width of `comirec_sa`; 0 for 4 · D, as in the paper."""
    hidden_dims: tuple[int, ...] = (128,)
    """Widths of the layers between [capsule ; profile] and what is added to the capsule to make the interest. None
    leaves the capsule as it is, where nothing is joined to it: no profile, no context, not `causal`'s state."""
    dropout: float = 0.0
    """Share of the values dropped, in training, before and in the layers."""
    num_profile_features: int = 0
    """Profile features P joined to each capsule; set from the dataset by the train job."""
    context_dim: int = 0
    """Width C of a query or context vector joined to each capsule; 0 for none."""
    label_attention_power: float = float("inf")
    """Power p of label-aware attention; `inf` picks the best interest. On MovieLens-100K a finite power lost recall:
    below 4 the interests become one, from 4 on the mix that is trained is not the best interest that is searched by."""
    normalize: bool = True
    """Scale interest and item vectors to length 1; scores are then cosines."""

    @property
    def row_dim(self) -> int:
        """Width of a table row: D, or 2 · D with separate item vectors."""
        return self.dim * (2 if self.separate_item_vectors else 1)

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "num_interests",
            "max_recency",
            "encoder_layers",
            "routing_iterations",
            "num_lag_kernels",
            "encoder_dim",
        ):
            check(getattr(self, name) >= 1, name, "at least 1")
        check(self.label_attention_power > 0, "label_attention_power", "above 0")
        check(all(width >= 1 for width in self.hidden_dims), "hidden_dims", "at least 1 each")
        check(0 <= self.dropout < 1, "dropout", "0 or more and below 1")
        for name in ("attention_dim", "num_profile_features", "context_dim"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(self.kind != "two_tower" or self.num_interests == 1, "num_interests", "1 for a two_tower")
        learned = self.hidden_dims or self.num_profile_features or self.context_dim or self.recency
        learned = learned or self.kind != "two_tower" or self.pooling == "attention" or self.sequence_encoder != "none"
        check(bool(learned), "hidden_dims", "at least one layer for a two_tower that learns nothing else")
        differ = self.kind == "comirec_dr" or self.routing_start != "zeros" or self.num_interests == 1
        check(differ, "routing_start", "other than zeros but for comirec_dr: equal starts stay equal")
