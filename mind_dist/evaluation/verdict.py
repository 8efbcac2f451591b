"""Recall of a model and of its opponents, user by user → whether the model is worth deploying.

It is where it finds significantly more than the best of them. Which is the best is seen on the same users, which favors the
opponents: whoever is above the best of several is above each, so nothing has to be corrected for their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mind_dist.evaluation.measuring import MAIN_CUTOFF, Values
from mind_dist.evaluation.significance import Difference, paired_bootstrap

_LEVEL = 0.05
"""Chance with which a model that is as good as its opponent may be called better."""


@dataclass(frozen=True)
class Verdict:
    """How a model does against the best of its opponents, by recall@50, the mean of history kept and removed.

    Attributes:
        opponent: The best of them.
        num_opponents: Of how many.
        model: Recall of the model.
        best: Recall of the opponent.
        difference: Model less opponent.
        num_users: Users that both were measured on.
        worth_deploying: Whether the model is significantly above.
    """

    opponent: str
    num_opponents: int
    model: float
    best: float
    difference: Difference
    num_users: int
    worth_deploying: bool

    @property
    def sentence(self) -> str:
        """The same in words."""
        found, name = self.difference, self.opponent
        head, how = ("worth deploying", "significantly above") if self.worth_deploying else ("NOT worth deploying", "")
        is_below = found.p < _LEVEL and found.mean < 0
        how = how or ("significantly below" if is_below else "not significantly above")
        share = f" ({found.mean / self.best:+.1%})" if self.best else ""
        text = (
            f"The model is {head}: its recall@{MAIN_CUTOFF} of {self.model:.4f} (history kept and removed, half each) is {how} "
            f"that of {name}, {self.best:.4f}, the best of {self.num_opponents} tuned floors: {found.mean:+.4f}{share}, "
            f"95 % interval {found.low:+.4f} to {found.high:+.4f}, p = {found.p:.2g}, {self.num_users:,} users."
        )
        if self.worth_deploying:
            return text
        advice = f"Train longer, or deploy {name}, which takes minutes of one core."
        if is_below:
            return f"{text} {advice}"
        least = (found.high - found.low) / 2
        return f"{text} So many users tell differences above {least:.3f} from chance. {advice}"


def verdict_of(model: Values, opponents: Mapping[str, Values]) -> Verdict:
    """Return the verdict on a model.

    Args:
        model: Recall of each user, [n].
        opponents: The same by opponent, at least one.
    """
    name = max(opponents, key=lambda each: float(opponents[each].mean()))
    found = paired_bootstrap(model, opponents[name])
    is_above = found.mean > 0 and found.p < _LEVEL
    means = float(model.mean()), float(opponents[name].mean())
    return Verdict(name, len(opponents), *means, found, len(model), is_above)
