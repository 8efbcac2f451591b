"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained."""

    batch_size: int = 128
    """History windows per worker and step."""
    max_behaviors: int = 50
    """Longest history L the model sees."""
    num_targets: int = 4
    """Items after each window that are targets (a Kafka event is always one)."""
    every_position: bool = False
    """Train the interests after every behavior of a window, each on the `num_targets` items that come next, instead of
    only those after the whole window (a Kafka event always trains the whole history before it)."""
    window_stride: int = 1
    """One window for so many behaviors of a user and epoch. 1 takes each behavior but the first as a window's first
    target once; above, windows lie anywhere, as full as the history allows."""
    num_negatives: int = 512
    """Negatives per worker and step drawn from the items."""
    negative_power: float = 0.0
    """They are drawn in proportion to count ** this: 0 evenly, 1 as often as they are seen."""
    in_batch_negatives: bool = True
    """Let the batch's targets be negatives of each other, too."""
    cross_worker_negatives: bool = False
    """Let the targets of all workers be negatives of each other, not only those of a worker's own batch."""
    full_softmax: bool = False
    """Tell targets from all items instead of negatives."""
    interest_choice: Literal["label_aware", "best"] = "label_aware"
    """`label_aware`: the interests as a target weighs them score it and its negatives (MIND, ComiRec); `best`: every
    item, target or negative, is scored by its best interest, as it is when served."""
    warm_start: Literal["none", "cooccurrence"] = "none"
    """`cooccurrence`: begin with item vectors made of which items follow which in the dataset's train split (Parquet
    only)."""
    id_dropout: float = 0.0
    """Share of the items that are made of their side features alone in a step, as an item is that was never seen."""
    hard_negative_beta: float = 0.0
    """Weigh negatives by exp(beta · logit), so that the hard ones count more (REMI, arXiv 2302.14532)."""
    routing_weight: float = 0.0
    """Weight of REMI's regulariser, the variance of how each interest attends to behaviors; it moves attention alone
    (`comirec_sa`, a `two_tower` with attention), as no gradient flows into the coupling that routing finds."""
    spread_weight: float = 0.0
    """Weight of the penalty for interests of a user whose cosine is above `spread_margin`."""
    spread_margin: float = 0.5
    """Cosine up to which interests may be alike."""
    balance_weight: float = 0.0
    """Weight of the penalty for interests that win unequal shares of the targets."""
    temperature: float = 0.1
    """Divides the scores in the softmax."""
    logq_correction: bool = True
    """Correct the sampled softmax for how likely each negative was drawn."""
    learning_rate: float = 0.01
    """Learning rate of dense parameters and item rows."""
    lr_decay: bool = True
    """Decay the learning rate linearly to zero over the run (where its length is known)."""
    epochs: int = 1
    """Passes over the prepared dataset (Parquet only)."""
    max_steps: int = 0
    """Stop after this many steps; 0 for no bound."""
    checkpoint_every_steps: int = 0
    """Save every so many steps; 0 saves at the end alone."""
    admission_count: int = 1
    """An item gets its own row when it was seen this often."""
    seed: int = 17
    """Seed of everything random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; parameters stay float32."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "at least 1")
        check(self.max_behaviors >= 1, "max_behaviors", "at least 1")
        check(self.num_targets >= 1, "num_targets", "at least 1")
        check(self.window_stride >= 1, "window_stride", "at least 1")
        check(self.num_negatives >= 0, "num_negatives", "0 or more")
        for name in ("negative_power", "hard_negative_beta", "routing_weight", "spread_weight", "balance_weight"):
            check(getattr(self, name) >= 0, name, "0 or more")
        told_apart = self.num_negatives or self.in_batch_negatives or self.full_softmax
        check(bool(told_apart), "num_negatives", "above 0 without in_batch_negatives or full_softmax")
        check(0 <= self.id_dropout < 1, "id_dropout", "0 or more and below 1")
        check(
            self.in_batch_negatives or not self.cross_worker_negatives,
            "cross_worker_negatives",
            "off without in_batch_negatives",
        )
        check(-1 <= self.spread_margin <= 1, "spread_margin", "between -1 and 1")
        check(self.temperature > 0, "temperature", "above 0")
        check(self.learning_rate > 0, "learning_rate", "above 0")
        check(self.epochs >= 1, "epochs", "at least 1")
        check(self.max_steps >= 0, "max_steps", "0 or more")
        check(self.checkpoint_every_steps >= 0, "checkpoint_every_steps", "0 or more")
        check(self.admission_count >= 1, "admission_count", "at least 1")
