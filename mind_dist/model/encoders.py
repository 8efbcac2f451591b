"""Causal sequence encoders: behaviors → behaviors that know what came before them.

The state at a position depends on the behaviors up to it alone, so one pass serves every beginning of a history. Where
one position is wanted of each, as in serving, that one alone is computed, as far as an encoder can: `ends`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mind_dist.config import GruConfig, LagKernelsConfig, ModelConfig, NoEncoderConfig, TransformerConfig
from mind_dist.model.dropout import Dropout
from mind_dist.model.places import decays


@runtime_checkable
class SequenceEncoder(Protocol):
    """The one signature of all encoders."""

    def __call__(self, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None = None) -> Tensor:
        """Return the state at every position, [B, L, D], or at some positions of each history alone, [B, E, D].

        Args:
            behaviors: The histories.
            ends: The positions wanted, from 0; None for all.
        """
        ...


def at_ends(states: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None) -> Float[Tensor, "B _ D"]:
    """Return the states at some positions of each history; all for None."""
    if ends is None:
        return states
    return states.gather(1, ends[:, :, None].expand(-1, -1, states.shape[2]))


class NoEncoder(nn.Module):
    """Leaves behaviors as they are."""

    def forward(
        self, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Return the behaviors; see `SequenceEncoder`."""
        return at_ends(behaviors, ends)


class LagKernels(nn.Module):
    """Sees the past as weighted means, each with a learned weight per lag, and adds an MLP of them to their mean.

    Weights are a softmax over the lags there are. They start as decays of different speed, the first ones seeing
    little but the newest behaviors, the last one nearly all alike.
    """

    def __init__(self, dim: int, dropout: float, section: LagKernelsConfig) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(decays(section.count, section.max_lag))
        self.mlp = nn.Sequential(
            Dropout(dropout),
            nn.Linear(dim * section.count, section.hidden_dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(section.hidden_dim, dim),
        )

    def forward(
        self, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Return the states; see `SequenceEncoder`."""
        places = torch.arange(behaviors.shape[1], device=behaviors.device)
        if ends is None:
            means = torch.einsum("hts,bsd->bthd", self._weights(places[:, None] - places, behaviors.dtype), behaviors)
        else:
            weights = self._weights(ends[:, :, None] - places, behaviors.dtype)  # [H, B, E, L]
            means = torch.einsum("hbts,bsd->bthd", weights, behaviors)
        added: Tensor = self.mlp(means.flatten(start_dim=2))
        return means.mean(dim=2) + added

    def _weights(self, lags: Int64[Tensor, "*N L"], dtype: torch.dtype) -> Float[Tensor, "H *N L"]:
        """Return how much each kernel weighs behaviors of these lags; zeros for what is ahead."""
        log_weights = self.log_weights[:, lags.clamp(0, self.log_weights.shape[1] - 1)]
        return log_weights.masked_fill(lags < 0, torch.finfo(log_weights.dtype).min).softmax(dim=-1).to(dtype)


class Recurrent(nn.Module):
    """Adds a GRU's output to the behaviors."""

    def __init__(self, dim: int, dropout: float, section: GruConfig) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.gru = nn.GRU(dim, section.hidden_dim, section.layers, batch_first=True)
        self.output = nn.Linear(section.hidden_dim, dim)

    def forward(
        self, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Return the states; see `SequenceEncoder`."""
        states, _ = self.gru(self.dropout(behaviors))
        added: Tensor = self.output(self.dropout(at_ends(states, ends)))
        return at_ends(behaviors, ends) + added


class Transformer(nn.Module):
    """Causal self-attention layers over behaviors with learned positions (SASRec, arXiv 1808.09781)."""

    def __init__(self, dim: int, dropout: float, section: TransformerConfig) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(section.positions, dim) * 0.02)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, _heads(dim), section.hidden_dim, dropout, batch_first=True, norm_first=True)
            for _ in range(section.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, behaviors: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Return the states; see `SequenceEncoder`."""
        length = behaviors.shape[1]
        places = torch.arange(length, device=behaviors.device).clamp(max=len(self.positions) - 1)
        states = self.dropout(behaviors * behaviors.shape[2] ** 0.5 + self.positions[places])
        ahead = torch.ones(length, length, dtype=torch.bool, device=behaviors.device).triu(diagonal=1)
        for layer in self.layers[:-1]:
            states = layer(states, src_mask=ahead)
        if ends is None or not len(behaviors):  # torch reads no mask of each history where there is none
            states = at_ends(self.layers[-1](states, src_mask=ahead), ends)
        else:
            states = _layer_at(self.layers[-1], states, ends, ahead)
        normed: Tensor = self.norm(states)
        return normed


def _layer_at(
    layer: nn.Module, states: Float[Tensor, "B L D"], ends: Int64[Tensor, "B E"], ahead: Bool[Tensor, "L L"]
) -> Float[Tensor, "B E D"]:
    """Return what a layer gives at some positions alone: all are looked at, these alone look."""
    assert isinstance(layer, nn.TransformerEncoderLayer)
    normed = layer.norm1(states)
    hidden = ahead[ends].repeat_interleave(layer.self_attn.num_heads, dim=0)  # [B · heads, E, L]
    seen, _ = layer.self_attn(at_ends(normed, ends), normed, normed, attn_mask=hidden, need_weights=False)
    found = at_ends(states, ends) + layer.dropout1(seen)
    inner = layer.dropout(layer.activation(layer.linear1(layer.norm2(found))))
    added: Tensor = found + layer.dropout2(layer.linear2(inner))
    return added


def _heads(dim: int) -> int:
    """Return two heads where the width can be halved."""
    return 2 if dim % 2 == 0 else 1


def sequence_encoder(config: ModelConfig) -> nn.Module:
    """Return the encoder that a config names."""
    match config.encoder:
        case NoEncoderConfig():
            return NoEncoder()
        case LagKernelsConfig() as section:
            return LagKernels(config.dim, config.dropout, section)
        case GruConfig() as section:
            return Recurrent(config.dim, config.dropout, section)
        case TransformerConfig() as section:
            return Transformer(config.dim, config.dropout, section)
