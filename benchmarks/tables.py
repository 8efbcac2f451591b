"""Outcomes → what is printed: metrics side by side, and whether their differences are chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE
from rich.table import Column, Table

from benchmarks.cells import Outcome
from benchmarks.variants import Outcomes, Variant, by_variant, paired_per_user
from mind_dist.evaluation.significance import corrected, paired_bootstrap

_METRICS = ("recall@20", "recall@50", "hit@50", "ndcg@50", "hr@10", "ndcg@10", "hr@50", "hr@200")
_FIGURES = (
    "interest_cosine",
    "least_interest_share@50",
    "best_single_recall@50",
    "category_coverage@20",
    "diversity@50",
)
_COMPARED = ("recall@50", "hr@10")
_SUBJECT = Variant("best", 4)


def quality_table(dataset: str, outcomes: Outcomes) -> Table:
    """Return the metrics of a dataset, means over seeds and splits, and their spread; a row for each history setting."""
    grouped = by_variant(outcomes, dataset)
    rows = [row for found in grouped.values() for outcome in found for row in outcome.rows]
    names = [name for name in (*_METRICS, *_FIGURES) if any(name in row for row in rows)]
    headers = [name.replace("_", "\n").replace("@", "\n@") for name in names]
    recipe = Column("recipe", no_wrap=True)  # what is left of a narrow log goes to the figures
    table = Table(recipe, "K", "history", *headers, "train\ns", title=dataset, box=SIMPLE, padding=(0, 1, 0, 0))
    for variant, found in grouped.items():
        own = [row for outcome in found for row in outcome.rows]
        for history in dict.fromkeys(row["history"] for row in own):
            of_history = [row for row in own if row["history"] == history]
            seconds = np.mean([row["train_s"] for row in of_history])
            values = (_cell(of_history, name) for name in names)
            table.add_row(variant.label, str(variant.k), history, *values, f"{seconds:.0f}")
    return table


def _cell(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return one metric of one recipe: the mean over seeds, and the spread of several."""
    values = [row[name] for row in rows if name in row]
    if not values:
        return ""
    spread = f" ±{np.std(values):.3f}".replace("0.", ".") if len(values) > 1 else ""
    return f"{np.mean(values):.3f}".replace("0.", ".", 1) + spread


def compared(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Return, for each dataset, the subject (`best` at K 4 where measured) against all others, user by user.

    All of them are one family: `p_holm` is corrected for their number.
    """
    found = []
    for dataset in dict.fromkeys(cell.dataset for cell in outcomes):
        grouped = by_variant(outcomes, dataset)
        trained = [key for key in grouped if "interest" in next(iter(grouped[key][0].curves.values()))]
        if not trained:
            continue
        subject = max(trained, key=_likeness)
        for other in grouped:
            if other != subject:
                found += _pairs(dataset, subject, other, grouped)
    return corrected(found)


def _likeness(variant: Variant) -> tuple[bool, bool]:
    """Return how near a variant comes to the subject wanted: the same but for D, or the same."""
    return variant._replace(dim=_SUBJECT.dim) == _SUBJECT, variant == _SUBJECT


def _pairs(
    dataset: str, subject: Variant, other: Variant, grouped: Mapping[Variant, list[Outcome]]
) -> list[dict[str, Any]]:
    """Return the comparisons of two variants, one a history and metric."""
    about = {"dataset": dataset, "recipe": subject.recipe, "k": subject.k, "dim": subject.width}
    about |= {"other": other.recipe, "other_k": other.k, "other_dim": other.width}
    found = []
    for history, metrics in grouped[subject][0].per_user.items():
        for metric in _COMPARED:
            if metric in metrics and metric in grouped[other][0].per_user[history]:
                first, second = paired_per_user(grouped[subject], grouped[other], history, metric)
                of_metric = about | {"history": history, "metric": metric, "num_users": len(first)}
                if len(first):
                    found.append(of_metric | asdict(paired_bootstrap(first, second)))
    return found


def paired_table(dataset: str, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Return the comparisons of a dataset."""
    own = [each for each in comparisons if each["dataset"] == dataset]
    subject = f"{_label(own[0])} K={own[0]['k']}" if own else "nothing trained"
    columns = ("less", "K", "history", "metric", "users", "difference", "95 % interval", "p", "p (Holm)")
    table = Table(*columns, title=f"{dataset}: {subject} against the others, user by user", box=SIMPLE)
    for each in own:
        difference, interval = f"{each['mean']:+.4f}", f"{each['low']:+.4f} … {each['high']:+.4f}"
        other = (_label(each, "other"), str(each["other_k"]), each["history"], each["metric"], str(each["num_users"]))
        table.add_row(*other, difference, interval, f"{each['p']:.4f}", f"{each['p_holm']:.4f}")
    return table


def _label(comparison: Mapping[str, Any], which: Literal["recipe", "other"] = "recipe") -> str:
    """Return what a table calls one side of a comparison."""
    k, dim = ("k", "dim") if which == "recipe" else ("other_k", "other_dim")
    return Variant(comparison[which], comparison[k], comparison[dim]).label
