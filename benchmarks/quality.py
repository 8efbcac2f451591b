"""Recipes beside floors → tables, `reports/quality.json` and figures.

    python -m benchmarks.quality                                    # best at K 4 and 1, and the floors, MovieLens-100K
    python -m benchmarks.quality --data ../shared/data              # all datasets of a folder
    python -m benchmarks.quality --data ../shared/data --full       # everything there is; hours, and it can be resumed
    python -m benchmarks.quality --data ../shared/data --part valid --recipes best --interests 1 2 4   # to choose K by
    python -m benchmarks.quality --data ../shared/data --dims 8 16 32 64 --recipes best --interests 1 4   # where K pays
    python -m benchmarks.quality --data ../shared/data --splits 1230 1231 1232    # comparisons over three times the users

The test users are for reports: settings are chosen by `benchmarks.choose`, on the valid users. Where test users have seen
several settings of a recipe, that is said.

What was measured once under the same settings is read from the cache. A result of other code than today's is marked so;
after a change that matters, remove the cache's `cells` and `versions`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from rich.console import Console

from benchmarks.cells import Bench, Cell, Outcome, code_digest, open_task, run_cell, settings_tested
from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.datasets import COMIREC_SPLIT
from benchmarks.folders import info_of, names_in
from benchmarks.neural.stored import OPPONENTS, stored_outcome
from benchmarks.plots import draw
from benchmarks.tables import compared, paired_table, quality_table
from benchmarks.tasks import Part, Protocol
from benchmarks.twins import compared_to_one, twins_table
from benchmarks.variants import Variant
from jobs.cli import run
from mind_dist.errors import ConfigError
from mind_dist.evaluation import Cut
from mind_dist.evaluation.floors import FLOORS
from mind_dist.recipes import RECIPES

_SEED = 17
_LOG_WIDTH = 160
"""Width of the tables in a log, which has none of its own."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Quality:
    """Measure recipes beside what one would use instead: a table, reports/quality.json and figures."""

    data: str = ""
    """Folder of Parquet files, NAME.parquet and, where items are known, NAME.items.parquet: all of them are measured. What is
    known here under its name is measured as docs/quality.md says; of others, L and features are derived from the files.
    Without a folder, MovieLens-100K is measured."""
    full: bool = False
    """Measure all recipes and K of 1, 2, 4, 8 with three seeds, in place of the short set; each recipe at its
    own D. To see where several interests pay, pass `--dims 8 16 32 64 --recipes best --interests 1 4`."""
    datasets: tuple[str, ...] = ()
    """Datasets of the folder in place of all."""
    recipes: tuple[str, ...] = ()
    """Recipes in place of those of the set; `none` for the floors alone."""
    interests: tuple[int, ...] = ()
    """Values of K in place of those of the set."""
    dims: tuple[int, ...] = ()
    """Widths D to measure each recipe at, in place of its own."""
    seeds: tuple[int, ...] = ()
    """Seeds in place of those of the set."""
    splits: tuple[int, ...] = (COMIREC_SPLIT,)
    """Seeds by which users are split into those trained on, chosen by and reported; what is compared is compared over the
    users of all of them."""
    floors: tuple[str, ...] = tuple(FLOORS)
    """Opponents to measure; stored results of SASRec and eSASRec are shown beside them."""
    protocol: Protocol = "user-split"
    """ComiRec's split by user, or everybody's last item."""
    part: Part = "test"
    """Whose users are measured: valid to choose by (the floors are tuned on them), test to report."""
    max_behaviors: int = 0
    """Longest history L in place of the dataset's own."""
    cut: Cut = "share"
    """Where valid and test users are cut: after 80 % of their events, at the border nearest to it between two times, so that
    nobody is asked for the rest of a basket, or before the last event; what is stored was cut by share, and is not shown
    then."""
    max_steps: int = 0
    """Stop every training after so many steps, to see the benchmark work; 0 trains as the recipe says."""
    jobs: int = 2
    """Cells measured at once, each in a process of one thread."""
    remeasure: bool = False
    """Measure again, with the versions there are."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets, versions and results are kept."""
    output: Path = Path("reports")
    """Where the report and its figures are written."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.jobs < 1:
            raise ValueError("jobs must be at least 1")
        if min(self.dims, default=1) < 1:
            raise ValueError("dims must be at least 1 each")
        if self.cut != "share" and self.protocol == "leave-one-out":
            raise ValueError("cut must be share for leave-one-out, where one item is held out")
        if not self.splits or (self.protocol == "leave-one-out" and self.splits != (COMIREC_SPLIT,)):
            raise ValueError("splits must be seeds of the user split, at least one; leave-one-out has everybody in one")

    def cells(self) -> list[Cell]:
        """Return what to measure, floors first.

        Raises:
            ConfigError: There is no such recipe or floor, or a dataset's files are not there.
        """
        recipes = self.recipes or (tuple(RECIPES) if self.full else ("best",))
        recipes = () if recipes == ("none",) else recipes
        _check_known("recipes", recipes, RECIPES)
        _check_known("floors", self.floors, FLOORS)
        interests = self.interests or ((1, 2, 4, 8) if self.full else (4, 1))
        seeds = self.seeds or (tuple(_SEED + number for number in range(3)) if self.full else (_SEED,))
        datasets = self.datasets or self._default_datasets()
        floors = [
            Cell(dataset, floor, split=split) for dataset, floor, split in product(datasets, self.floors, self.splits)
        ]
        trained = [
            Cell(dataset, recipe, k, seed, _dim(recipe, width), split)
            for dataset, recipe, width, k, seed, split in product(
                datasets, recipes, self.dims or (0,), interests, seeds, self.splits
            )
        ]
        return floors + [cell for cell in trained if cell.k == 1 or RECIPES[cell.recipe]().model.kind != "two_tower"]

    def _default_datasets(self) -> tuple[str, ...]:
        return names_in(self.data) if self.data else (MOVIELENS_100K,)


def main(job: Quality) -> None:
    """Measure, show, write."""
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    bench = Bench(job.data, job.cache, job.protocol, job.part, job.max_steps, job.max_behaviors, job.cut)
    cells = [cell for cell in job.cells() if not _lacks_times(cell, job.data)]
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    for dataset, split in product(datasets, job.splits):
        open_task(bench, dataset, split)  # prepared here, once, before several processes want it
    outcomes = measured(bench, cells, job, console.print)
    warn_of_choices(bench, cells, console.print)
    outcomes |= stored(bench, product(datasets, OPPONENTS, job.splits), console.print)
    comparisons, twins = compared(outcomes), compared_to_one(outcomes)
    for dataset in datasets:
        console.print(quality_table(dataset, outcomes))
        console.print(paired_table(dataset, comparisons))
        if any(each["dataset"] == dataset for each in twins):
            console.print(twins_table(dataset, twins))
    written = write_report(job, outcomes, comparisons, twins)
    console.print(*written, sep="\n")


def _lacks_times(cell: Cell, data: str) -> bool:
    """Tell whether a cell is a floor that needs times, of a dataset that knows the order of events alone."""
    floor = FLOORS.get(cell.recipe)
    return floor is not None and floor.needs_times and info_of(cell.dataset, data).time_unit == "order"


def measured(bench: Bench, cells: Sequence[Cell], job: Quality, report: Callable[[str], None]) -> dict[Cell, Outcome]:
    """Return what came of every cell, in the order asked for."""
    found: dict[Cell, Outcome] = {}
    for cell, outcome in _finished(bench, cells, job):
        found[cell] = outcome
        split = "" if cell.split == COMIREC_SPLIT else f" split {cell.split}"
        where = f"{cell.dataset}{split} {Variant.of(cell).label} K={cell.k} seed {cell.seed}"
        stale = "" if outcome.code == code_digest() else ", by other code than today's"
        report(f"{len(found)}/{len(cells)}  {where}: trained in {outcome.rows[0]['train_s']} s{stale}")
    return {cell: found[cell] for cell in cells}


def warn_of_choices(bench: Bench, cells: Iterable[Cell], report: Callable[[str], None]) -> None:
    """Say where test users have seen several settings of a recipe, so that one could have been chosen by them."""
    for cell in {(cell.dataset, Variant.of(cell), cell.split): cell for cell in cells}.values():
        if bench.part == "test" and (settings := settings_tested(bench, cell)) > 1:
            where = f"{cell.dataset} split {cell.split}, {Variant.of(cell).label} K={cell.k}"
            report(
                f"{where}: {settings} settings have been measured on its test users; choose by `benchmarks.choose` alone"
            )


def _finished(bench: Bench, cells: Sequence[Cell], job: Quality) -> Iterator[tuple[Cell, Outcome]]:
    """Yield outcomes as they come."""
    if job.jobs == 1:
        yield from ((cell, run_cell(bench, cell, remeasure=job.remeasure)) for cell in cells)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the linear algebra of a process when it starts
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(job.jobs, context, torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(run_cell, bench, cell, remeasure=job.remeasure): cell for cell in cells}
        try:
            yield from ((running[future], future.result()) for future in as_completed(running))
        finally:
            pool.shutdown(cancel_futures=True)


def stored(bench: Bench, wanted: Iterable[tuple[str, str, int]], report: Callable[[str], None]) -> dict[Cell, Outcome]:
    """Return the stored results of what takes too long to train here: of datasets, models and splits."""
    found: dict[Cell, Outcome] = {}
    for dataset, model, split in wanted if bench.part == "test" and bench.cut == "share" else ():
        cell = Cell(dataset, model, split=split)
        outcome = stored_outcome(cell, bench.protocol)
        users = {user.history.user_key for user in open_task(bench, dataset, split).reporting.users}
        if outcome is not None and users == set(outcome.users):
            found[cell] = outcome
        elif outcome is not None:
            report(f"{dataset}: the stored result of {model} is left out, it is of other users")
    return found


def write_report(
    job: Quality, outcomes: dict[Cell, Outcome], comparisons: list[dict[str, Any]], twins: list[dict[str, Any]]
) -> list[Path]:
    """Write rows, comparisons and figures; returns their paths."""
    suffix = ("" if job.protocol == "user-split" else f"-{job.protocol}") + (
        "" if job.part == "test" else f"-{job.part}"
    )
    job.output.mkdir(parents=True, exist_ok=True)
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    written = []
    for name, content in (("", rows), ("-paired", comparisons), ("-interests", twins)):
        written.append(job.output / f"quality{suffix}{name}.json")
        written[-1].write_text(json.dumps(content, indent=2) + "\n")
    return [*written, *draw(outcomes, job.output / f"figures{suffix}")]


def _dim(recipe: str, width: int) -> int:
    """Return a width as a cell has it: a recipe's own is 0, so that it is one cell however it was asked for."""
    return 0 if width == RECIPES[recipe]().model.dim else width


def _check_known(setting: str, names: Sequence[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(setting, f"no {', '.join(unknown)}; there are {', '.join(known)}")


if __name__ == "__main__":
    run(Quality, main)
