"""Outcomes → figures, one column of axes a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.cells import Cell, Outcome

Outcomes = Mapping[Cell, Outcome]

_WIDTH, _HEIGHT, _DPI = 5.0, 4.0, 120


def draw(outcomes: Outcomes, directory: Path) -> list[Path]:
    """Write every figure there are curves for; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "recall_over_n": _recall_over_n,
        "k_sweep": _k_sweep,
        "accuracy_against_diversity": _diversity,
        "interest_usage": _interest_usage,
    }
    found = (_figure(outcomes, directory / f"{name}.png", plot) for name, plot in figures.items())
    return [path for path in found if path is not None]


def _figure(outcomes: Outcomes, path: Path, plot: Callable[[Axes, Outcomes], bool]) -> Path | None:
    """Write one figure, unless it would be empty."""
    datasets = list(dict.fromkeys(cell.dataset for cell in outcomes))
    figure = Figure(figsize=(_WIDTH * len(datasets), _HEIGHT), layout="constrained")
    drawn = False
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        axes.set_title(dataset)
        if plot(axes, {cell: outcome for cell, outcome in outcomes.items() if cell.dataset == dataset}):
            axes.legend(fontsize="small")
            drawn = True
        else:
            axes.set_visible(False)
    if not drawn:
        return None
    figure.savefig(path, dpi=_DPI)
    return path


def _recall_over_n(axes: Axes, outcomes: Outcomes) -> bool:
    """Draw recall over the length of the list, history kept where it was measured."""
    for label, points in _curves(outcomes, "recall").items():
        axes.plot(points[:, 0], points[:, 1], marker=".", label=label)
    axes.set(xscale="log", xlabel="N", ylabel=f"recall@N, history {_history(outcomes)}")
    return True


def _diversity(axes: Axes, outcomes: Outcomes) -> bool:
    """Draw recall against diversity, λ growing along each line."""
    curves = _curves(outcomes, "diversity")
    for label, points in curves.items():
        axes.plot(points[:, 2], points[:, 1], marker=".", label=label)
    axes.set(xlabel="diversity@50", ylabel=f"recall@50, history {_history(outcomes)}")
    return bool(curves)


def _interest_usage(axes: Axes, outcomes: Outcomes) -> bool:
    """Draw which share of the top 50 each interest finds."""
    curves = {label: points for label, points in _curves(outcomes, "interest").items() if len(points) > 1}
    for place, (label, points) in enumerate(curves.items()):
        width = 0.8 / len(curves)
        axes.bar(points[:, 0] + (place - (len(curves) - 1) / 2) * width, points[:, 1], width, label=label)
    axes.set(xlabel="interest", ylabel="share of the top 50 it finds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return bool(curves)


def _k_sweep(axes: Axes, outcomes: Outcomes) -> bool:
    """Draw recall over K, and its spread over seeds."""
    points: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell, outcome in outcomes.items():
        for row in outcome.rows:
            if "interest" in outcome.curves[row["history"]] and "recall@50" in row:
                points[cell.recipe, row["history"]][cell.k].append(row["recall@50"])
    for (recipe, history), by_k in points.items():
        ks = sorted(by_k)
        means, spreads = ([float(of(by_k[k])) for k in ks] for of in (np.mean, np.std))
        axes.errorbar(ks, means, spreads, marker="o", capsize=3, label=f"{recipe}, history {history}")
    axes.set(xlabel="K", ylabel="recall@50")
    return bool(points)


def _curves(outcomes: Outcomes, name: str) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return the mean curve over seeds of every recipe and K that has it."""
    found: dict[str, list[Sequence[Sequence[float]]]] = defaultdict(list)
    history = _history(outcomes)
    for cell, outcome in outcomes.items():
        if name in outcome.curves[history]:
            label = f"{cell.recipe} K={cell.k}" if "interest" in outcome.curves[history] else cell.recipe
            found[label].append(outcome.curves[history][name])
    return {label: np.mean(curves, axis=0) for label, curves in found.items()}


def _history(outcomes: Outcomes) -> str:
    """Return the history setting that is drawn: the protocol's first."""
    return next(iter(next(iter(outcomes.values())).curves))
