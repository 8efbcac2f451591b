"""Item vectors of a window → a state after each of its positions.

Windows are padded at their end, so that no real position sees padding, and a causal mask is all that is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mind_dist.model.dropout import Dropout

LayerKind = Literal["sasrec", "ligr"]


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and what is before it.

    Args:
        dim: Width D.
        num_heads: Heads; D is divided among them.
        dropout: Share of the attention weights left out in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = Dropout(dropout)
        self.inward = nn.Linear(dim, 3 * dim)
        self.outward = nn.Linear(dim, dim)

    def forward(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return for each position what it reads from those up to it."""
        heads = self.inward(states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.flatten(1, 2).unbind()
        length, width = queries.shape[1:]
        future = torch.full((length, length), -torch.inf).triu(1)
        logits = torch.baddbmm(
            future, queries, keys.transpose(1, 2), alpha=width**-0.5
        )  # torch's own takes twice as long
        read = self.dropout(logits.softmax(-1)) @ values
        mixed: Tensor = self.outward(read.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2))
        return mixed


class SwiGLU(nn.Module):
    """A gated feed-forward layer without biases (arXiv 2002.05202).

    Args:
        dim: Width D.
        hidden_dim: Width of the hidden layer.
        dropout: Share of the hidden layer left out in training.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.inward = nn.Linear(dim, 2 * hidden_dim, bias=False)
        self.outward = nn.Linear(hidden_dim, dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return each position's own new state."""
        gate, value = self.inward(states).chunk(2, dim=-1)
        mixed: Tensor = self.outward(self.dropout(functional.silu(gate) * value))
        return mixed


class SASRecLayer(nn.Module):
    """A block of SASRec (arXiv 1808.09781, section 3.2) with the norms before its layers.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        widening: Width of the hidden layer, in D.
        dropout: Share of activations left out in training.
    """

    def __init__(self, dim: int, num_heads: int, widening: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.attention = CausalAttention(dim, num_heads, dropout)
        self.inward, self.outward = nn.Linear(dim, widening * dim), nn.Linear(widening * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the states after attention and a ReLU layer, each added to what goes in."""
        states = states + self.dropout(self.attention(self.norms[0](states)))
        hidden = self.dropout(functional.relu(self.inward(self.norms[1](states))))
        after: Tensor = states + self.dropout(self.outward(hidden))
        return after


class LiGRLayer(nn.Module):
    """A block of LiGR (arXiv 2502.03417) as eSASRec has it (arXiv 2508.06450, equation 1).

    h ← h + sigmoid(h W + b) ⊙ F(LayerNorm(h)), where F is attention, then SwiGLU: the gate reads what goes in unchanged.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        widening: Width of the hidden layer, in D.
        dropout: Share of activations left out in training.
    """

    def __init__(self, dim: int, num_heads: int, widening: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.gates = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)])
        self.parts = nn.ModuleList([CausalAttention(dim, num_heads, dropout), SwiGLU(dim, widening * dim, dropout)])
        self.dropout = Dropout(dropout)

    def forward(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return the states after both parts."""
        for norm, gate, part in zip(self.norms, self.gates, self.parts, strict=True):
            states = states + torch.sigmoid(gate(states)) * self.dropout(part(norm(states)))
        return states
