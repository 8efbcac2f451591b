"""Causal sequence encoders: behaviors → behaviors that know what came before them.

The state at a position depends on the behaviors up to it alone, so one pass serves every beginning of a history.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mind_dist.config import GruConfig, LagKernelsConfig, ModelConfig, NoEncoderConfig, TransformerConfig
from mind_dist.model.places import decays


class LagKernels(nn.Module):
    """Sees the past as weighted means, each with a learned weight per lag, and adds an MLP of them to their mean.

    Weights are a softmax over the lags there are. They start as decays of different speed, the first ones seeing
    little but the newest behaviors, the last one nearly all alike.
    """

    def __init__(self, dim: int, dropout: float, section: LagKernelsConfig) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(decays(section.count, section.max_lag))
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(dim * section.count, section.hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(section.hidden_dim, dim),
        )

    def forward(self, behaviors: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the state at every position."""
        places = torch.arange(behaviors.shape[1], device=behaviors.device)
        lags = places[:, None] - places
        log_weights = self.log_weights[:, lags.clamp(0, self.log_weights.shape[1] - 1)]
        weights = log_weights.masked_fill(lags < 0, torch.finfo(log_weights.dtype).min).softmax(dim=-1)
        means = torch.einsum("hts,bsd->bthd", weights.to(behaviors.dtype), behaviors)
        added: Tensor = self.mlp(means.flatten(start_dim=2))
        return means.mean(dim=2) + added


class Recurrent(nn.Module):
    """Adds a GRU's output to the behaviors."""

    def __init__(self, dim: int, dropout: float, section: GruConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(dim, section.hidden_dim, section.layers, batch_first=True)
        self.output = nn.Linear(section.hidden_dim, dim)

    def forward(self, behaviors: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the state at every position."""
        states, _ = self.gru(self.dropout(behaviors))
        added: Tensor = self.output(self.dropout(states))
        return behaviors + added


class Transformer(nn.Module):
    """Causal self-attention layers over behaviors with learned positions (SASRec, arXiv 1808.09781)."""

    def __init__(self, dim: int, dropout: float, section: TransformerConfig) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(section.positions, dim) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, _heads(dim), section.hidden_dim, dropout, batch_first=True, norm_first=True)
            for _ in range(section.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, behaviors: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the state at every position."""
        length = behaviors.shape[1]
        places = torch.arange(length, device=behaviors.device).clamp(max=len(self.positions) - 1)
        states = self.dropout(behaviors * behaviors.shape[2] ** 0.5 + self.positions[places])
        ahead = torch.ones(length, length, dtype=torch.bool, device=behaviors.device).triu(diagonal=1)
        for layer in self.layers:
            states = layer(states, src_mask=ahead)
        normed: Tensor = self.norm(states)
        return normed


def _heads(dim: int) -> int:
    """Return two heads where the width can be halved."""
    return 2 if dim % 2 == 0 else 1


def sequence_encoder(config: ModelConfig) -> nn.Module:
    """Return the encoder that a config names."""
    match config.encoder:
        case NoEncoderConfig():
            return nn.Identity()
        case LagKernelsConfig() as section:
            return LagKernels(config.dim, config.dropout, section)
        case GruConfig() as section:
            return Recurrent(config.dim, config.dropout, section)
        case TransformerConfig() as section:
            return Transformer(config.dim, config.dropout, section)
