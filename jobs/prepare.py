"""Raw logs → prepared dataset.

python -m jobs.prepare --example > prepare.toml    # settings with comments, to start from
python -m jobs.prepare --config prepare.toml
python -m jobs.prepare --output data/mine --log.paths logs/ --log.timestamp-column ts
python -m jobs.prepare --output data/ml-100k --run movielens_100k
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.cli import check_output, connect_ray, interactive, run
from jobs.prepare_example import EXAMPLE
from mind_dist.config import PrepareConfig
from mind_dist.dataset.movielens import movielens_100k
from mind_dist.dataset.parquet import DatasetManifest
from mind_dist.dataset.prepare import Advance, prepare
from mind_dist.dataset.prepare_report import rejections_text
from mind_dist.dataset.provenance import Coverage
from mind_dist.dataset.times import moment_text
from mind_dist.errors import ConfigError, without_secrets
from mind_dist.storage import Directory

_RUNS: dict[str, Callable[[str], PrepareConfig]] = {"movielens_100k": movielens_100k}

_LOW_COVERAGE = 0.5
"""A column with values for fewer of the items or users is worth a line."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class PrepareJob(PrepareConfig):
    """Turn raw logs into a prepared dataset; `--example` prints a settings file to start from, for `--config`."""

    run: Literal["", "movielens_100k"] = ""
    """A named run, which brings all settings but `output` and `overwrite`."""

    def config(self) -> PrepareConfig:
        """Return the settings of the named run, or those given.

        Raises:
            ConfigError: Both are given.
        """
        given = PrepareConfig(**{each.name: getattr(self, each.name) for each in dataclasses.fields(PrepareConfig)})
        if not self.run:
            return given
        if given != PrepareConfig(self.output, overwrite=self.overwrite):
            raise ConfigError("run", f"{self.run} brings its own settings: give only output and overwrite beside it")
        return dataclasses.replace(_RUNS[self.run](self.output), overwrite=self.overwrite)


def main(job: PrepareJob) -> None:
    """Prepare, and say what came out, what was left out, and why.

    Raises:
        ConfigError: The output is relative, and this is a submitted job.
    """
    check_output("output", job.output)
    config = job.config()
    connect_ray()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not interactive()) as progress:
        manifest = prepare(config, _advancing(progress))
    show(manifest)
    print(without_secrets(Directory.at(config.output).uri))


def _advancing(progress: Progress) -> Advance:
    stages = {stage: progress.add_task(stage, total=None) for stage in ("read", "group", "filter", "split")}

    def advance(stage: str, begun: int, total: int) -> None:
        progress.update(stages[stage], completed=begun, total=total)

    return advance


def show(manifest: DatasetManifest) -> None:
    """Print what a dataset holds, what was left of the log after each step, and how much of the metadata reached it."""
    console = Console(width=None if interactive() else 140)
    console.print(_steps(manifest))
    console.print(_splits(manifest))
    for title, coverage in (("item", manifest.item_coverage), ("user", manifest.user_coverage)):
        if coverage:
            console.print(_coverage(title, coverage))
    rejected = {
        reason: (count, manifest.rejected_examples.get(reason, "")) for reason, count in manifest.num_rejected.items()
    }
    print(f"{manifest.num_items:,} items; rejected rows: {rejections_text(rejected) or 'none'}")
    if manifest.num_cold_items:
        print(
            f"{manifest.num_cold_items:,} more items are known from their metadata alone: their features may find them"
        )
    if manifest.num_bad_availability:
        print(f"{manifest.num_bad_availability:,} items have a time of availability that is no time: taken as no bound")
    print(_time_range(manifest))
    for line in (*_warnings("items", manifest.item_coverage), *_warnings("users", manifest.user_coverage)):
        print(f"warning: {line}")


def _steps(manifest: DatasetManifest) -> Table:
    table = Table("events", "setting", *("rows", "users", "items"), title="what was left of the log")
    for step in manifest.steps:
        table.add_row(step.name, step.setting, *(_count(n) for n in (step.num_events, step.num_users, step.num_items)))
    return table


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _splits(manifest: DatasetManifest) -> Table:
    table = Table("split", "users", "events")
    for split, num_users in manifest.num_users.items():
        table.add_row(split, f"{num_users:,}", f"{manifest.num_events[split]:,}")
    return table


def _coverage(title: str, coverage: tuple[Coverage, ...]) -> Table:
    numbers = ("with a value", "without", "unusable", "distinct", "cut", "clipped")
    table = Table(f"{title} column", *numbers)
    for each in coverage:
        known = (each.num_matched, each.num_missing, each.num_unusable, each.num_distinct)
        counts = (*known, each.num_cut, each.num_clipped)
        table.add_row(f"{each.name} (the ids)" if each.kind == "id" else each.name, *(f"{n:,}" for n in counts))
    return table


def _warnings(table: str, coverage: tuple[Coverage, ...]) -> Iterator[str]:
    """Yield a line for whatever of the metadata mostly did not reach the dataset, cannot be used, or was cut."""
    for each in coverage:
        num_rows = each.num_matched + each.num_missing + (each.num_unusable if each.kind == "column" else 0)
        if each.num_matched < _LOW_COVERAGE * num_rows:
            yield f"{table}: {each.name} is known for {each.num_matched:,} of {num_rows:,} of the log's {table} only"
        if each.num_unusable:
            yield f"{table}: {each.name} has {each.num_unusable:,} values that cannot be used, such as {each.example!r}"
        if each.num_cut:
            yield f"{table}: {each.name} has {each.num_cut:,} values that were too long for Milvus and are cut"


def _time_range(manifest: DatasetManifest) -> str:
    if manifest.time_unit == "order":
        return f"positions from {manifest.first_ms:,} to {manifest.last_ms:,}, which are no times"
    return f"times from {moment_text(manifest.first_ms)} to {moment_text(manifest.last_ms)} UTC"


if __name__ == "__main__":
    run(PrepareJob, main, example=EXAMPLE)
