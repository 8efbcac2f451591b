"""Values of settings side by side, on the valid users alone: what settings of a recipe are chosen by.

    python -m benchmarks.choose --data ../shared/data --datasets beauty --vary training.penalties.balance_weight=0.3,0.6,1.2
    python -m benchmarks.choose --protocol leave-one-out --datasets ml1m --data ../shared/data --vary training.epochs=9,17

Settings with several values are combined. The test users are seen by `benchmarks.quality` alone, and by no settings but a
recipe's own: so what was chosen goes into the recipe first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, with_config
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.cells import Bench, Cell, Outcome, run_cell
from benchmarks.datasets import COMIREC_SPLIT
from benchmarks.tasks import Protocol
from jobs.cli import run
from mind_dist.errors import ConfigError
from mind_dist.recipes import RECIPES

_LOG_WIDTH = 160
_SHOWN = (
    *("recall@20", "recall@50", "ndcg@50", "hr@10", "ndcg@10"),
    *("interest_cosine", "least_interest_share@50", "best_single_recall@50"),
)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Choose:
    """Train a recipe with each of several settings, and measure it on the valid users."""

    vary: tuple[str, ...] = ()
    """Settings and values to try: `training.epochs=2,3,4`; several settings are combined."""
    recipe: str = "best"
    """The recipe."""
    datasets: tuple[str, ...] = ("movielens_100k",)
    """What to train on."""
    data: str = ""
    """Folder of the Parquet files; MovieLens-100K needs none."""
    protocol: Protocol = "user-split"
    """How users are cut."""
    interests: int = 4
    """K."""
    seeds: tuple[int, ...] = (17,)
    """Seeds, of which means are shown."""
    split: int = COMIREC_SPLIT
    """Seed by which users are split."""
    max_steps: int = 0
    """Stop every training after so many steps; 0 trains as the recipe says."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets, versions and results are kept."""

    def cells(self, dataset: str) -> Iterator[list[Cell]]:
        """Yield the cells of each combination of values, one a seed.

        Raises:
            ConfigError: There is no such recipe, or a value is missing.
        """
        if self.recipe not in RECIPES:
            raise ConfigError("recipe", f"no {self.recipe}; there are {', '.join(RECIPES)}")
        for changes in product(*map(_values, self.vary)):
            yield [Cell(dataset, self.recipe, self.interests, seed, 0, self.split, changes) for seed in self.seeds]


def _values(varied: str) -> list[str]:
    """Return a setting with each of its values.

    >>> _values("training.epochs=2,3")
    ['training.epochs=2', 'training.epochs=3']
    """
    name, _, values = varied.partition("=")
    if not values:
        raise ConfigError("vary", f"{varied!r} has no values: write NAME=VALUE,VALUE")
    return [f"{name}={value}" for value in values.split(",")]


def main(job: Choose) -> None:
    """Train, measure, show."""
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    bench = Bench(job.data, job.cache, job.protocol, "valid", job.max_steps)
    for dataset in job.datasets:
        found = []
        for cells in job.cells(dataset):
            found.append((cells[0].changes, [run_cell(bench, cell) for cell in cells]))
            console.print(f"{dataset} {' '.join(cells[0].changes) or 'as it is'}: {len(cells)} measured")
        console.print(table(f"{job.recipe} on the valid users of {dataset}", found))


def table(title: str, found: Sequence[tuple[Sequence[str], Sequence[Outcome]]]) -> Table:
    """Return what each combination of values came to, means over its seeds."""
    measured = {name for _, outcomes in found for name in outcomes[0].rows[0]}
    names = [name for name in _SHOWN if name in measured]
    shown = Table("settings", "history", *names, "train s", title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for changes, outcomes in found:
        for rows in zip(*(outcome.rows for outcome in outcomes), strict=True):
            means = [f"{np.mean([row[name] for row in rows]):.4f}" for name in names]
            seconds = f"{np.mean([row['train_s'] for row in rows]):.0f}"
            shown.add_row(" ".join(changes) or "as it is", rows[0]["history"], *means, seconds)
    return shown


if __name__ == "__main__":
    run(Choose, main)
