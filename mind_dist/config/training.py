"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.model import ModelConfig
from mind_dist.config.objective import HardConfig, NegativesConfig, ObjectiveConfig, PenaltiesConfig, SampledConfig

_EPOCHS_UNWATCHED = 3


@with_config(STRICT)
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained."""

    objective: ObjectiveConfig = HardConfig()  # noqa: RUF009 - frozen
    """By which interests items are scored."""
    negatives: NegativesConfig = SampledConfig()  # noqa: RUF009 - frozen
    """What targets are told from."""
    penalties: PenaltiesConfig = PenaltiesConfig()  # noqa: RUF009 - frozen
    """What is added to the loss."""
    temperature: float = 0.1
    """Divides the scores in the softmax."""
    batch_size: int = 128
    """Positions trained per step, of all workers together: so many windows (or Kafka events), or as many as have so many
    positions with `every_position`. What is trained does not depend on how many workers there are."""
    max_behaviors: int = 50
    """Longest history L the model sees."""
    num_targets: int = 4
    """Items after each window that are targets (a Kafka event is always one)."""
    every_position: bool = False
    """Train the interests after every behavior of a window, each on the `num_targets` items that come next, instead of
    only those after the whole window (a Kafka event always trains the whole history before it)."""
    window_stride: int = 0
    """One window for so many behaviors of a user and epoch. 1 takes each behavior but the first as a window's first
    target once; `max_behaviors` lets windows follow each other so that each is in one; any other number lets them lie
    anywhere, as full as the history allows. 0 is `max_behaviors` with `every_position`, else 1: an epoch trains every
    position."""
    warm_start: Literal["none", "cooccurrence"] = "none"
    """`cooccurrence`: begin with item vectors made of which items follow which in the dataset's train split (Parquet
    only)."""
    id_dropout: float = 0.0
    """Share of the items that are made of their side features alone in a step, as an item is that was never seen."""
    context_dropout: float = 0.2
    """Share of the positions that are trained without their context, so that interests can be asked for in none; the
    others are trained on those of their targets that happened in the same context as the first."""
    learning_rate: float = 0.01
    """Learning rate of dense parameters and item rows."""
    young_learning_rate: float = 0.0
    """Learning rate of an item's row at first; at its n-th update it is divided by 1 + n / 100, but never less than
    `learning_rate`. So items that a log brings are learned fast by a run that goes on slowly with what it knows."""
    lr_decay: bool = True
    """Decay the learning rate linearly to zero over the run, where its length is known, or over each cycle."""
    epochs: int = 0
    """Passes over the prepared dataset (Parquet only); 0 for as many as its valid users say, or 3 where it has none."""
    max_steps: int = 0
    """Stop after this many steps; 0 for no bound."""
    checkpoint_every_steps: int = 0
    """Save every so many steps, beside what `checkpoint_every_s` saves; 0 does not count steps."""
    admission_count: int = 1
    """An item gets its own row when it was seen this often."""
    keep_items_days: float = 0.0
    """Forget an item, row and all, that no event of the log was about for so many days of the events' time (Kafka only);
    it is in no version then, until it is seen again. 0 keeps all for ever."""
    second_moment: Literal["value", "row"] = "value"
    """Adam's second moment of an item's row: one for each value, or one for the row, which takes a third of its memory away
    and 1 to 2 % of the recall."""
    seed: int = 17
    """Seed of everything random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; parameters stay float32."""

    @property
    def num_epochs(self) -> int:
        """Passes over the prepared dataset where nobody watches."""
        return self.epochs or _EPOCHS_UNWATCHED

    @property
    def windows_per_step(self) -> int:
        """History windows per step, of all workers together, of a prepared dataset."""
        return max(1, round(self.batch_size / self.max_behaviors)) if self.every_position else self.batch_size

    @property
    def stride(self) -> int:
        """Behaviors of a user for each of which an epoch has a window."""
        return self.window_stride or (self.max_behaviors if self.every_position else 1)

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "at least 1")
        check(self.max_behaviors >= 1, "max_behaviors", "at least 1")
        check(self.num_targets >= 1, "num_targets", "at least 1")
        check(self.window_stride >= 0, "window_stride", "0 or more")
        check(0 <= self.id_dropout < 1, "id_dropout", "0 or more and below 1")
        check(0 <= self.context_dropout <= 1, "context_dropout", "between 0 and 1")
        check(self.temperature > 0, "temperature", "above 0")
        check(self.learning_rate > 0, "learning_rate", "above 0")
        check(self.young_learning_rate >= 0, "young_learning_rate", "0 or more")
        check(self.epochs >= 0, "epochs", "0 or more")
        check(self.max_steps >= 0, "max_steps", "0 or more")
        check(self.checkpoint_every_steps >= 0, "checkpoint_every_steps", "0 or more")
        check(self.admission_count >= 1, "admission_count", "at least 1")
        check(self.keep_items_days >= 0, "keep_items_days", "0 or more")


def check_together(model: ModelConfig, training: TrainingConfig) -> None:
    """Check what depends on settings of both.

    Raises:
        ValueError: A setting of one has no effect with the other; the message names both.
    """
    extraction = model.extraction
    attends = extraction.kind in {"comirec_sa", "causal"}
    attends = attends or (extraction.kind == "two_tower" and extraction.pooling == "attention")
    moved = f"0 with model.extraction.kind {extraction.kind}: no gradient flows into its coupling"
    check(attends or not training.penalties.routing_weight, "training.penalties.routing_weight", moved)


def check_from_log(training: TrainingConfig) -> None:
    """Check that all settings work where the events of a log are trained, one by one, as they come.

    Raises:
        ValueError: A setting needs a prepared dataset; the message names it.
    """
    advice = "where events are trained as they come; --recipe stream has settings that work"
    endless = not training.lr_decay or training.max_steps > 0
    check(not training.every_position, "training.every_position", f"off {advice}")
    check(training.num_targets == 1, "training.num_targets", f"1 {advice}")
    check(training.warm_start == "none", "training.warm_start", f"none {advice}")
    check(not training.window_stride, "training.window_stride", f"0 {advice}")
    check(not training.epochs, "training.epochs", f"0 {advice}")
    check(endless, "training.lr_decay", f"off, or max_steps set, {advice}")
