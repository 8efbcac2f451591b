"""What implementations of one training step are compared on: the same windows, items and network, whatever holds the items' rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from mind_dist.config import ModelConfig, SampledConfig, TrainingConfig
from mind_dist.examples.source import Examples
from mind_dist.model.interests import Behaviors
from mind_dist.model.item_bag import score_vectors
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.model.objectives import Candidates, objective_of
from mind_dist.recipes import RECIPES
from mind_dist.records import Keys


@dataclass(frozen=True)
class TrainingLoad:
    """A step's work.

    Attributes:
        model: Recipe of the network.
        items: Items there are; how often they are seen falls with their rank, as in logs.
        workers: How many share a step.
        batch: Windows of a step, of all workers together.
        length: Behaviors of a window; all are real.
        negatives: Drawn evenly by each worker.
    """

    model: str
    items: int
    workers: int = 1
    batch: int = 1024
    length: int = 20
    negatives: int = 2048

    def model_config(self) -> ModelConfig:
        """Return the network's settings: D = 64, K = 4."""
        return RECIPES[self.model]().model

    def training_config(self) -> TrainingConfig:
        """Return settings that train the last item of a window alone, on sampled softmax."""
        recipe = RECIPES[self.model]().training
        return TrainingConfig(
            objective=recipe.objective,
            temperature=recipe.temperature,
            negatives=SampledConfig(count=self.negatives, in_batch=False),
            batch_size=self.batch,
            max_behaviors=self.length,
            num_targets=1,
        )

    def counts(self) -> Keys:
        """Return how often each item was seen, [items]."""
        return 1 + (1_000_000 / np.arange(1, self.items + 1)).astype(np.int64)

    def windows(self, rank: int) -> Iterator[Examples]:
        """Yield a worker's windows of each step, for ever."""
        random, share = np.random.default_rng([self.items, rank]), self.batch // self.workers
        scatter = np.random.default_rng(self.items).permutation(self.items)
        while True:
            # the rank of an item is log-uniform: as many events below 100 as between 100 and 10,000
            ranks = np.exp(random.random((share, self.length + 1)) * np.log(self.items)).astype(np.int64)
            items = 1 + scatter[np.minimum(ranks - 1, self.items - 1)]
            history, targets = items[:, :-1], items[:, -1:]
            nothing = np.zeros((share, 0), np.int64)
            yield Examples(history, history > 0, targets, targets > 0, nothing, np.zeros(share, np.int64))


class Network(nn.Module):
    """The network and its loss over vectors of items that somebody else has looked up."""

    def __init__(self, load: TrainingLoad) -> None:
        super().__init__()
        training = load.training_config()
        self.inner = MultiInterestModel(load.model_config())
        self._objective = objective_of(training.objective, temperature=training.temperature)
        self._normalize = load.model_config().normalize

    def forward(
        self,
        history: Float[Tensor, "B L D"],
        keys: Tensor,
        targets: Float[Tensor, "B D"],
        pool: Float[Tensor, "P D"],
        targets_in_pool: Tensor,
    ) -> Tensor:
        """Return the mean loss of the windows."""
        interests = self.inner(Behaviors(history, keys, torch.ones_like(keys, dtype=torch.bool)))
        targets, pool = (score_vectors(part, normalize=self._normalize) for part in (targets, pool))
        mask = torch.ones(len(targets), 1, dtype=torch.bool)
        candidates = Candidates(targets[:, None], mask, pool, targets_in_pool[:, None], torch.zeros(1, len(pool)))
        loss: Tensor = self._objective(interests, candidates) / len(targets)
        return loss


def drawn(random: np.random.Generator, load: TrainingLoad, targets: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return a step's negatives, distinct, and where each target is among them, -1 for nowhere."""
    pool = np.unique(random.integers(1, load.items + 1, load.negatives))
    at = np.minimum(np.searchsorted(pool, targets), len(pool) - 1)
    return pool, np.where(pool[at] == targets, at, -1)
