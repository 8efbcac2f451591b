"""What interests are trained for: sections for the objective, its negatives, and its penalties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class LabelAwareConfig:
    """The user as a target sees them scores it and its negatives: label-aware attention (MIND, section 4.4)."""

    kind: Literal["label_aware"] = "label_aware"
    """One of label_aware, hard, best; each has settings of its own."""
    form: Literal["power", "scaled"] = "power"
    """Weights of the interests: `power`, softmax(score^p), as MIND writes it, with the score's sign kept; `scaled`,
    softmax(p · score), which sharpens scores of any size, such as the cosines of unit vectors, of which large powers
    are all nearly zero."""
    power: float = 1.0
    """Power p: the larger, the more the best interest counts. On MovieLens-100K, `scaled`, below 4 the interests become
    one, and from 4 on the mix that is trained is not the best interest that is searched by."""

    def __post_init__(self) -> None:
        check(0 < self.power < float("inf"), "power", "above 0 and finite; a hard choice is the kind `hard`")


@with_config(STRICT)
@dataclass(frozen=True)
class HardConfig:
    """A target's best interest scores it and its negatives (ComiRec, equation 7): label-aware attention, p → ∞."""

    kind: Literal["hard"] = "hard"
    """One of label_aware, hard, best; each has settings of its own."""


@with_config(STRICT)
@dataclass(frozen=True)
class BestConfig:
    """Every item, target or negative, is scored by its best interest, as it is when served."""

    kind: Literal["best"] = "best"
    """One of label_aware, hard, best; each has settings of its own."""


ObjectiveConfig = Annotated[LabelAwareConfig | HardConfig | BestConfig, Field(discriminator="kind")]
"""By which interests items are scored in training."""


@with_config(STRICT)
@dataclass(frozen=True)
class SampledConfig:
    """Targets are told from a sample of the items."""

    kind: Literal["sampled"] = "sampled"
    """One of sampled, full; each has settings of its own."""
    count: int = 512
    """Negatives that each worker draws from the items for its windows of a step, with replacement."""
    distribution: Literal["counts", "log_uniform"] = "counts"
    """How they are drawn: in proportion to count ** `power`; or to log(1 + 1 / rank), by the rank of their counts, as
    TensorFlow's sampled softmax does."""
    power: float = 0.0
    """0 draws evenly, 1 as often as items are seen (`counts` alone)."""
    in_batch: bool = True
    """Let the batch's targets be negatives of each other, too: those of all workers, however many there are."""
    logq: Literal["negatives", "all", "none"] = "negatives"
    """Correct scores for how likely an item was to be drawn: `negatives`, which makes the softmax's denominator
    unbiased; `all`, the target's own score, too, as TensorFlow's sampled softmax does; or `none`."""
    hard_beta: float = 0.0
    """Weigh negatives by exp(beta · logit), so that the hard ones count more (REMI, arXiv 2302.14532)."""

    def __post_init__(self) -> None:
        check(self.count >= 0, "count", "0 or more")
        check(bool(self.count or self.in_batch), "count", "above 0 without in_batch")
        check(self.power >= 0, "power", "0 or more")
        check(not self.power or self.distribution == "counts", "power", "0 where the distribution is log_uniform")
        check(not self.power or self.count > 0, "power", "0 where count is 0: nothing is drawn")
        check(self.logq != "all" or not self.in_batch, "logq", "other than all with in_batch: targets are drawn there")
        check(self.hard_beta >= 0, "hard_beta", "0 or more")


@with_config(STRICT)
@dataclass(frozen=True)
class FullSoftmaxConfig:
    """Targets are told from all items."""

    kind: Literal["full"] = "full"
    """One of sampled, full; each has settings of its own."""
    hard_beta: float = 0.0
    """Weigh negatives by exp(beta · logit), so that the hard ones count more (REMI, arXiv 2302.14532)."""

    def __post_init__(self) -> None:
        check(self.hard_beta >= 0, "hard_beta", "0 or more")


NegativesConfig = Annotated[SampledConfig | FullSoftmaxConfig, Field(discriminator="kind")]
"""What targets are told from."""


@with_config(STRICT)
@dataclass(frozen=True)
class PenaltiesConfig:
    """Penalties that keep interests apart and all of them in use; a weight of 0 leaves one out."""

    spread_weight: float = 0.0
    """Weight of the penalty for interests of a user whose cosine is above `spread_margin`."""
    spread_margin: float = 0.5
    """Cosine up to which interests may be alike."""
    balance_weight: float = 0.0
    """Weight of the penalty for interests that win unequal shares of the targets."""
    routing_weight: float = 0.0
    """Weight of REMI's regulariser, the variance of how each interest attends to behaviors. It needs attention that
    gradients flow into: `comirec_sa`, `causal`, a `two_tower` with attention."""

    def __post_init__(self) -> None:
        for name in ("spread_weight", "balance_weight", "routing_weight"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(-1 <= self.spread_margin <= 1, "spread_margin", "between -1 and 1")
        default = type(self).spread_margin
        check(
            bool(self.spread_weight) or self.spread_margin == default, "spread_margin", "left out without spread_weight"
        )
