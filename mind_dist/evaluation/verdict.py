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
        found = self.difference
        head = "worth deploying" if self.worth_deploying else "NOT worth deploying"
        share = f" ({found.mean / self.best:+.0%})" if self.best else ""
        below = "significantly below" if found.p < _LEVEL and found.mean < 0 else "not significantly above"
        how = "significantly above" if self.worth_deploying else below
        text = (
            f"The model is {head}: its recall@{MAIN_CUTOFF} of {self.model:.4f} is {how} {self.opponent}'s {self.best:.4f}, the best of "
            f"{self.num_opponents} tuned floors: {found.mean:+.4f}{share}, 95 % interval {found.low:+.4f} to {found.high:+.4f}, "
            f"p = {found.p:.2g}, {self.num_users:,} users; recall with the history kept and removed, half each."
        )
        if self.worth_deploying:
            return text
        return f"{text} {self.opponent} takes minutes of one core and finds as much: train longer, or deploy that."


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
