"""Opponents without a neural net: what a team uses before it thinks of a multi-interest model.

train_log          a prepared dataset → the train split as flat arrays
tuning             settings → the best of them by valid users
recency            histories → which behaviors count, and how much
neighbors          the train split → what came after what
ranking            scores of some items → lists
popularity         most events
recent_popularity  most events in a window before the moment
item_knn           what came near the newest items
ease               each item regressed on all others
transition_graph   rings around the last items in the graph of what followed what
transitions        what came right after the newest items; nothing to tune

Each of `FLOORS` is tuned on users of whom no target is trained on, and may then be fitted to what more there is to train
on. Nothing is of the size of N², but for EASE, whose items are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation.floors import ease, item_knn, popularity, recent_popularity, transition_graph
from mind_dist.evaluation.floors.train_log import TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Effort, Tuned
from mind_dist.evaluation.recommenders import Recommender
from mind_dist.evaluation.task import find_task
from mind_dist.evaluation.users import Cut


class Fit(Protocol):
    """How a floor is made with settings."""

    def __call__(self, log: TrainLog, settings: Any, /) -> Recommender:
        """Return the floor, counted from a train split."""
        ...


class Tune(Protocol):
    """How a floor's settings are chosen."""

    def __call__(self, log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[Any]:
        """Return the settings that find most on the users chosen by."""
        ...


@dataclass(frozen=True)
class Floor:
    """A kind of opponent.

    Attributes:
        title: What a table calls it.
        default: Settings where there is nobody to choose by.
        tune: How its settings are chosen.
        fit: How it is made with them.
        searched: Everything that is searched, for whoever keeps results.
        needs_times: It says nothing where a log knows the order of events alone.
    """

    title: str
    default: Any
    tune: Tune
    fit: Fit
    searched: tuple[Any, ...] = ()
    needs_times: bool = False


FLOORS: Mapping[str, Floor] = MappingProxyType(
    {
        "popularity": Floor("popularity", popularity.Popularity(), popularity.tune, popularity.fit),
        "recent_popularity": Floor(
            "recent popularity",
            recent_popularity.Window(),
            recent_popularity.tune,
            recent_popularity.fit,
            recent_popularity.WINDOWS_H,
            needs_times=True,
        ),
        "itemknn": Floor("ItemKNN", item_knn.ItemKNN(), item_knn.tune, item_knn.fit, (item_knn.GRID, item_knn.STARTS)),
        "ease": Floor("EASE", ease.EASE(), ease.tune, ease.fit, (ease.PENALTIES, ease.RECENCY)),
        "tgh": Floor(
            "transition graph",
            transition_graph.TransitionGraph(),
            transition_graph.tune,
            transition_graph.fit,
            (transition_graph.GRID, transition_graph.STARTS),
        ),
    }
)
"""Name → a floor."""


def choice_of(dataset: PreparedDataset, cut: Cut = "share") -> Choice:
    """Return the valid users of a dataset, to choose by.

    Args:
        dataset: The dataset.
        cut: Where they are cut, if it is split by user.

    Raises:
        DatasetError: A file is missing or torn.
    """
    task = find_task(dataset, "valid", cut)
    return Choice(task.users, at=task.at)


def tuned(name: str, log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[Any]:
    """Return a floor's best settings; its defaults where there is nobody to choose by."""
    if not choice.users:
        return Tuned(FLOORS[name].default, 0.0, 0, 0.0, finished=True)
    return FLOORS[name].tune(log, choice, effort)


__all__ = ["FLOORS", "Choice", "Effort", "Floor", "TrainLog", "Tuned", "choice_of", "tuned"]
