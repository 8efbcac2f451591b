"""Causal sequence encoders: behaviors → behaviors that know what came before them.

The state at a position depends on the behaviors up to it alone, so one pass serves every beginning of a history.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mind_dist.config import ModelConfig
from mind_dist.model.places import decays


class LagKernels(nn.Module):
    """Sees the past as weighted means, each with a learned weight per lag, and adds an MLP of them to their mean.

    Weights are a softmax over the lags there are. They start as decays of different speed, the first ones seeing
    little but the newest behaviors, the last one nearly all alike.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(decays(config.num_lag_kernels, config.max_recency))
        self.mlp = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.dim * config.num_lag_kernels, config.encoder_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.encoder_dim, config.dim),
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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.encoder_dim, config.encoder_layers, batch_first=True)
        self.output = nn.Linear(config.encoder_dim, config.dim)

    def forward(self, behaviors: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the state at every position."""
        states, _ = self.gru(self.dropout(behaviors))
        added: Tensor = self.output(self.dropout(states))
        return behaviors + added


class Transformer(nn.Module):
    """Causal self-attention layers over behaviors with learned positions (SASRec, arXiv 1808.09781)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(config.max_recency, config.dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim, _heads(config.dim), config.encoder_dim, config.dropout, batch_first=True, norm_first=True
            )
            for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.dim)

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
    kinds = {"none": lambda _: nn.Identity(), "lag_kernels": LagKernels, "gru": Recurrent, "transformer": Transformer}
    encoder: nn.Module = kinds[config.sequence_encoder](config)
    return encoder
