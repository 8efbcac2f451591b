"""Outcomes → where several interests pay: each K beside one interest of the same D, and beside one of the same K · D."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.cells import Outcome
from benchmarks.variants import Outcomes, Values, Variant, by_variant, paired_per_user
from mind_dist.evaluation.significance import corrected, paired_bootstrap

Places = NDArray[np.int64]
"""Users, by where they stand in the order of a metric's values."""

_TWIN_METRICS = ("recall@50", "hit@50", "ndcg@50", "recall@200", "recall@500", "category_coverage@50")
_EQUAL_SIZE_METRICS = ("recall@50", "hit@50")
_METRIC_OF_THIRDS = "recall@50"
_THIRDS = ("few categories", "some categories", "many categories")


class Pair(NamedTuple):
    """Several interests, and one to be compared with."""

    several: Variant
    one: Variant

    @property
    def twins(self) -> bool:
        """Whether they are of the same D; else they are of the same K · D."""
        return self.several.width == self.one.width


def compared_to_one(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Return the comparisons of every pair there is, one a history, metric and group of users.

    All of them are one family: `p_holm` is corrected for their number.
    """
    found = []
    for dataset in dict.fromkeys(cell.dataset for cell in outcomes):
        grouped = by_variant(outcomes, dataset)
        for pair in pairs(grouped):
            found += [{"dataset": dataset} | _about(pair) | each for each in _comparisons(pair, grouped)]
    return corrected(found)


def pairs(variants: Collection[Variant]) -> list[Pair]:
    """Return each variant of several interests with one interest: that of its D, and that of its K · D.

    >>> variants = [Variant("best", 4, 16), Variant("best"), Variant("best", 1, 16), Variant("best", 1, 32)]
    >>> [(pair.one.width, pair.twins) for pair in pairs(variants)]
    [(16, True), (64, False)]
    """
    ones = [one for one in variants if one.k == 1]
    return [
        Pair(several, one)
        for several in variants
        if several.k > 1
        for width in (several.width, several.k * several.width)
        for one in ones
        if one.recipe == several.recipe and one.width == width
    ]


def _about(pair: Pair) -> dict[str, Any]:
    several, one = pair
    of_several = {"recipe": several.recipe, "k": several.k, "dim": several.width}
    return of_several | {"other_k": one.k, "other_dim": one.width, "equal": "D" if pair.twins else "K·D"}


def _comparisons(pair: Pair, grouped: Mapping[Variant, Sequence[Outcome]]) -> Iterator[dict[str, Any]]:
    """Yield a pair's comparisons over everybody, and those of twins over each third of the users, too."""
    several, one = (grouped[variant] for variant in pair)
    for history in several[0].per_user:
        measured = several[0].per_user[history].keys() & one[0].per_user[history].keys()
        for metric in _TWIN_METRICS if pair.twins else _EQUAL_SIZE_METRICS:
            if metric not in measured:
                continue
            values = paired_per_user(several, one, history, metric)
            groups: dict[str, Places] = {"all": np.arange(len(values[0]))}
            if pair.twins and metric == _METRIC_OF_THIRDS and "num_categories" in measured:
                _, num_categories = paired_per_user(several, one, history, "num_categories")
                groups |= zip(_THIRDS, thirds(num_categories), strict=True)
            for users, places in groups.items():
                if figures := compare(*(each[places] for each in values)):
                    yield {"history": history, "metric": metric, "users": users} | figures


def thirds(num_categories: Values) -> list[Places]:
    """Return the places of the users with the fewest categories, of those with more, and of those with the most.

    Args:
        num_categories: Of each user, in an order by which equal numbers are told apart.

    >>> [users.tolist() for users in thirds(np.array([5.0, 2.0, 2.0, 9.0, 2.0, 7.0]))]
    [[1, 2], [4, 0], [5, 3]]
    """
    return np.array_split(np.argsort(num_categories, kind="stable"), len(_THIRDS))


def compare(several: Values, one: Values) -> dict[str, Any]:
    """Return how a metric of the same users differs, over those it is defined for twice; nothing without any.

    `ratio` is that of the means, None over a mean of 0.
    """
    defined = ~(np.isnan(several) | np.isnan(one))
    if not defined.any():
        return {}
    several, one = several[defined], one[defined]
    ratio = float(several.mean() / one.mean()) if one.any() else None
    return {"num_users": len(one), "ratio": ratio} | asdict(paired_bootstrap(several, one))


def twins_table(dataset: str, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Return the comparisons of a dataset."""
    columns = ("recipe", "K", "D", "less", "history", "metric", "users", "difference", "ratio", "95 % interval")
    title = f"{dataset}: several interests against one, user by user"
    table = Table(*columns, "p", "p (Holm)", title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for each in (each for each in comparisons if each["dataset"] == dataset):
        less = f"K=1 D={each['other_dim']}" if each["equal"] == "K·D" else "K=1"
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.3f}"
        table.add_row(
            *(each["recipe"], str(each["k"]), str(each["dim"]), less),
            *(each["history"], each["metric"], each["users"], f"{each['mean']:+.4f}", ratio),
            *(f"{each['low']:+.4f} … {each['high']:+.4f}", f"{each['p']:.4f}", f"{each['p_holm']:.4f}"),
        )
    return table
