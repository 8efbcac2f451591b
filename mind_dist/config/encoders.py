"""The causal encoder that behaviors go through before extraction: a section for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class NoEncoderConfig:
    """Behaviors as they are."""

    kind: Literal["none"] = "none"
    """One of none, lag_kernels, gru, transformer; each has settings of its own."""


@with_config(STRICT)
@dataclass(frozen=True)
class LagKernelsConfig:
    """Weighted means of the past, each with its own learned weight per lag, through an MLP."""

    kind: Literal["lag_kernels"] = "lag_kernels"
    """One of none, lag_kernels, gru, transformer; each has settings of its own."""
    count: int = 4
    """Weighted means."""
    hidden_dim: int = 256
    """Width of the MLP's hidden layer."""
    max_lag: int = 200
    """Behaviors that are older than so many weigh as much as one that is so old."""

    def __post_init__(self) -> None:
        for name in ("count", "hidden_dim", "max_lag"):
            check(getattr(self, name) >= 1, name, "at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class GruConfig:
    """A GRU, whose output is added to the behaviors."""

    kind: Literal["gru"] = "gru"
    """One of none, lag_kernels, gru, transformer; each has settings of its own."""
    hidden_dim: int = 256
    """Width of its state."""
    layers: int = 1
    """Layers."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "layers"):
            check(getattr(self, name) >= 1, name, "at least 1")


@with_config(STRICT)
@dataclass(frozen=True)
class TransformerConfig:
    """Causal self-attention over behaviors with learned positions (SASRec, arXiv 1808.09781)."""

    kind: Literal["transformer"] = "transformer"
    """One of none, lag_kernels, gru, transformer; each has settings of its own."""
    hidden_dim: int = 256
    """Width of its hidden layers."""
    layers: int = 1
    """Layers."""
    positions: int = 200
    """Positions that have a vector of their own; later ones share the last."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "layers", "positions"):
            check(getattr(self, name) >= 1, name, "at least 1")


EncoderConfig = Annotated[
    NoEncoderConfig | LagKernelsConfig | GruConfig | TransformerConfig, Field(discriminator="kind")
]
"""The encoder."""
