"""How interests are extracted: a section for each kind, which has that kind's settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, with_config

from mind_dist.config.checks import STRICT, check

RoutingStart = Literal["content_keyed", "farthest_point", "zeros"]
"""Where dynamic routing starts."""


@with_config(STRICT)
@dataclass(frozen=True)
class TwoTowerConfig:
    """One pooled vector: the traditional two-tower."""

    kind: Literal["two_tower"] = "two_tower"
    """One of two_tower, mind, comirec_dr, comirec_sa, causal; each has settings of its own."""
    pooling: Literal["mean", "attention"] = "mean"
    """How behaviors are pooled; `attention` is that of `comirec_sa` with one interest."""
    recency: int = 0
    """Add a learned vector for how many behaviors ago it was to each behavior, the same for all that are older than so
    many; 0 for none."""

    def __post_init__(self) -> None:
        check(self.recency >= 0, "recency", "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class MindConfig:
    """B2I dynamic routing (MIND, arXiv 1904.08030)."""

    kind: Literal["mind"] = "mind"
    """One of two_tower, mind, comirec_dr, comirec_sa, causal; each has settings of its own."""
    iterations: int = 3
    """Iterations of the dynamic routing."""
    start: Literal["content_keyed", "farthest_point"] = "content_keyed"
    """Where routing starts: numbers keyed by (item, interest), or behaviors far from each other (Pinterest DCM, arXiv
    2506.23060)."""
    recency: int = 0
    """Add a learned vector for how many behaviors ago it was to each behavior, the same for all that are older than so
    many; 0 for none."""

    def __post_init__(self) -> None:
        check(self.iterations >= 1, "iterations", "at least 1")
        check(self.recency >= 0, "recency", "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class ComirecDrConfig:
    """Dynamic routing with a map for each position and interest (ComiRec-DR, arXiv 2005.09347)."""

    kind: Literal["comirec_dr"] = "comirec_dr"
    """One of two_tower, mind, comirec_dr, comirec_sa, causal; each has settings of its own."""
    positions: int = 200
    """Positions that have maps of their own, counted from the newest behavior; older ones share those of the oldest."""
    iterations: int = 3
    """Iterations of the dynamic routing."""
    start: RoutingStart = "zeros"
    """Where routing starts: zeros, numbers keyed by (item, interest), or behaviors far from each other (Pinterest DCM,
    arXiv 2506.23060)."""

    def __post_init__(self) -> None:
        check(self.positions >= 1, "positions", "at least 1")
        check(self.iterations >= 1, "iterations", "at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class ComirecSaConfig:
    """Self-attention (ComiRec-SA, arXiv 2005.09347)."""

    kind: Literal["comirec_sa"] = "comirec_sa"
    """One of two_tower, mind, comirec_dr, comirec_sa, causal; each has settings of its own."""
    hidden_dim: int = 0
    """Hidden width of the attention; 0 for 4 · D, as in the paper."""
    recency: int = 0
    """Add a learned vector for how many behaviors ago it was to each behavior, the same for all that are older than so
    many; 0 for none."""

    def __post_init__(self) -> None:
        check(self.hidden_dim >= 0, "hidden_dim", "0 or more")
        check(self.recency >= 0, "recency", "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class CausalConfig:
    """The encoder's state and a view of the past for each interest, so that one pass trains every position."""

    kind: Literal["causal"] = "causal"
    """One of two_tower, mind, comirec_dr, comirec_sa, causal; each has settings of its own."""
    max_lag: int = 200
    """Behaviors that are older than so many weigh as much as one that is so old."""

    def __post_init__(self) -> None:
        check(self.max_lag >= 1, "max_lag", "at least 1")


ExtractionConfig = Annotated[
    TwoTowerConfig | MindConfig | ComirecDrConfig | ComirecSaConfig | CausalConfig, Field(discriminator="kind")
]
"""How interests are extracted."""
