"""Settings → a causal transformer over items, its loss, and what it recommends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.neural.layers import LayerKind, LiGRLayer, SASRecLayer
from benchmarks.neural.softmax import draw_negatives, full_softmax, sampled_softmax
from benchmarks.neural.windows import padded
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.evaluation import ExactRecommender
from mind_dist.model.dropout import Dropout
from mind_dist.records import BehaviorSequence

DIM = 64
"""Width D, of every model that is compared."""

_POSITION_STD = 0.02
"""Where positions begin: small beside item vectors, whose inputs are of length √D."""

_SCORED_AT_ONCE = 64
_LAYERS = {"sasrec": SASRecLayer, "ligr": LiGRLayer}


@dataclass(frozen=True)
class Settings:
    """What is searched over.

    Attributes:
        length: Longest history L.
        layers: Kind of the blocks.
        num_layers: Blocks.
        num_heads: Attention heads of a block.
        widening: Width of a block's hidden layer, in D.
        last_norm: Whether states are normed after the last block (SASRec: yes; eSASRec: no).
        dropout: Share of activations left out in training.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        positions: Most positions of a step.
        averaging: Decay of the moving average of the weights by which is recommended; 0 for the newest weights.
        smoothing: Share of each target spread evenly over all items (full softmax alone).
        num_negatives: Sampled items a step; 0 for full softmax.
        in_batch_share: Share of the negatives that are targets of the step.
        correct_log_q: Whether negatives are corrected for how often they are drawn.
    """

    length: int = 200
    layers: LayerKind = "sasrec"
    num_layers: int = 2
    num_heads: int = 2
    widening: int = 1
    last_norm: bool = True
    dropout: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    positions: int = 3200
    averaging: float = 0.999
    smoothing: float = 0.0
    num_negatives: int = 0
    in_batch_share: float = 0.0
    correct_log_q: bool = True


class CausalTransformer(nn.Module):
    """A causal transformer over items; item vectors are input and output alike.

    Args:
        num_items: Items N.
        settings: Its shape.
    """

    def __init__(self, num_items: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.items = nn.Embedding(num_items, DIM)
        self.positions = nn.Parameter(_POSITION_STD * torch.randn(settings.length, DIM))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(DIM))
        block = _LAYERS[settings.layers]
        shape = (DIM, settings.num_heads, settings.widening, settings.dropout)
        self.blocks = nn.Sequential(*(block(*shape) for _ in range(settings.num_layers)))
        self.norm = nn.LayerNorm(DIM) if settings.last_norm else nn.Identity()
        self.dropout = Dropout(settings.dropout)

    def forward(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Return the state after each item; the next one scores by its inner product with it."""
        inputs = math.sqrt(DIM) * self.items(rows) + self.positions[: rows.shape[1]]
        states: Tensor = self.norm(self.blocks(self.dropout(inputs)))
        return states

    def loss(
        self, inputs: Int[Tensor, "B L"], targets: Int[Tensor, "B L"], generator: np.random.Generator
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the real positions of a step."""
        settings, items = self.settings, self.items.weight
        real = targets >= 0
        states, wanted = self(inputs)[real], targets[real]
        if not settings.num_negatives:
            return full_softmax(states, items, wanted, settings.smoothing)
        draws = (settings.num_negatives, settings.in_batch_share, generator)
        negatives, expected = draw_negatives(wanted, len(items), *draws)
        return sampled_softmax(states, items, wanted, negatives, expected if settings.correct_log_q else None)


def recommend_by(model: CausalTransformer, catalog: ItemCatalog) -> ExactRecommender:
    """Recommend by the state after the newest behavior, as the model is at that moment; no behaviors, no items."""

    def score(histories: Sequence[BehaviorSequence]) -> NDArray[np.float32]:
        scores = np.full((len(histories), len(catalog)), -np.inf, dtype=np.float32)
        known = [catalog.rows(history.item_keys) for history in histories]
        newest = [rows[rows >= 0][-model.settings.length :] for rows in known]
        order = sorted(np.flatnonzero([len(rows) > 0 for rows in newest]), key=lambda place: len(newest[place]))
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(order), _SCORED_AT_ONCE):
                chunk = order[start : start + _SCORED_AT_ONCE]
                states = model(padded([newest[place] for place in chunk], 0))
                last = states[torch.arange(len(chunk)), [len(newest[place]) - 1 for place in chunk]]
                scores[chunk] = (last @ model.items.weight.T).numpy()
        model.train()
        return scores

    return ExactRecommender(catalog.keys, score)
