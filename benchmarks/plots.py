"""Outcomes → figures, one column of axes a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from benchmarks.variants import Outcomes, Variant

_Lines = defaultdict[str, defaultdict[int, list[float]]]
"""Label → place on the x axis → a value for each seed."""

_WIDTH, _HEIGHT, _DPI = 5.0, 4.0, 120


def draw(outcomes: Outcomes, directory: Path) -> list[Path]:
    """Write every figure there are curves for; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "recall_over_n": _recall_over_n,
        "k_sweep": _k_sweep,
        "capacity": _capacity,
        "accuracy_against_diversity": _diversity,
        "interest_usage": _interest_usage,
    }
    found = (_figure(outcomes, directory / f"{name}.png", plot) for name, plot in figures.items())
    return [path for path in found if path is not None]


def _figure(outcomes: Outcomes, path: Path, plot: Callable[[Axes, Outcomes], bool]) -> Path | None:
    """Write one figure of the datasets there is something to draw of, unless it would be empty."""
    datasets = {name: _of_dataset(outcomes, name) for name in dict.fromkeys(cell.dataset for cell in outcomes)}
    drawn = [name for name, own in datasets.items() if plot(Figure().subplots(), own)]
    if not drawn:
        return None
    figure = Figure(figsize=(_WIDTH * len(drawn), _HEIGHT), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        plot(axes, datasets[name])
        axes.set_title(name)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=_DPI)
    return path


def _of_dataset(outcomes: Outcomes, name: str) -> Outcomes:
    return {cell: outcome for cell, outcome in outcomes.items() if cell.dataset == name}


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
    lines: _Lines = defaultdict(lambda: defaultdict(list))
    for variant, row in _trained_rows(outcomes):
        lines[f"{variant.label}, history {row['history']}"][variant.k].append(row["recall@50"])
    _draw_lines(axes, lines)
    axes.set(xlabel="K", ylabel="recall@50")
    return bool(lines)


def _capacity(axes: Axes, outcomes: Outcomes) -> bool:
    """Draw recall over D, a line for each K, of the recipes that were measured with several D."""
    history = _history(outcomes)
    rows = [(variant, row) for variant, row in _trained_rows(outcomes) if row["history"] == history]
    widths: dict[str, set[int]] = defaultdict(set)
    for variant, _ in rows:
        widths[variant.recipe].add(variant.width)
    lines: _Lines = defaultdict(lambda: defaultdict(list))
    for variant, row in rows:
        if len(widths[variant.recipe]) > 1:
            lines[f"{variant.recipe} K={variant.k}"][variant.width].append(row["recall@50"])
    _draw_lines(axes, lines)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="D", ylabel=f"recall@50, history {history}")
    return bool(lines)


def _trained_rows(outcomes: Outcomes) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Yield what has interests and was measured with recall@50, one row a seed and history."""
    for cell, outcome in outcomes.items():
        for row in outcome.rows:
            if "interest" in outcome.curves[row["history"]] and "recall@50" in row:
                yield Variant.of(cell), row


def _draw_lines(axes: Axes, lines: _Lines) -> None:
    """Draw means over seeds, and their spread."""
    for label, points in lines.items():
        places = sorted(points)
        means, spreads = ([float(of(points[place])) for place in places] for of in (np.mean, np.std))
        axes.errorbar(places, means, spreads, marker="o", capsize=3, label=label)


def _curves(outcomes: Outcomes, name: str) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return the mean curve over seeds of every recipe and K that has it."""
    found: dict[str, list[Sequence[Sequence[float]]]] = defaultdict(list)
    history = _history(outcomes)
    for cell, outcome in outcomes.items():
        if name in outcome.curves[history]:
            variant = Variant.of(cell)
            label = f"{variant.label} K={variant.k}" if "interest" in outcome.curves[history] else cell.recipe
            found[label].append(outcome.curves[history][name])
    return {label: np.mean(curves, axis=0) for label, curves in found.items()}


def _history(outcomes: Outcomes) -> str:
    """Return the history setting that is drawn: the protocol's first."""
    return next(iter(next(iter(outcomes.values())).curves))
