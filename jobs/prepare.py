"""Raw logs → prepared dataset.

python -m jobs.prepare --output data/mine --log.paths logs/ --log.timestamp-column ts --log.time-unit ms
python -m jobs.prepare --output data/ml-100k --run movielens_100k
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.cli import connect_ray, interactive, run
from mind_dist.config import PrepareConfig
from mind_dist.data.movielens import movielens_100k
from mind_dist.data.parquet import DatasetManifest
from mind_dist.data.prepare import Advance, prepare
from mind_dist.errors import ConfigError

_RUNS: dict[str, Callable[[str], PrepareConfig]] = {"movielens_100k": movielens_100k}


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class PrepareJob(PrepareConfig):
    """Turn raw logs into a prepared dataset; features of items and users are set in a --config file."""

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
    """Prepare and say what came out."""
    config = job.config()
    connect_ray()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not interactive()) as progress:
        manifest = prepare(config, _advancing(progress))
    Console().print(_table(manifest))
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in manifest.num_rejected.items()) or "none"
    print(f"{manifest.num_items:,} items; rejected rows: {rejected}; duplicates dropped: {manifest.num_duplicates:,}")
    print(config.output)


def _advancing(progress: Progress) -> Advance:
    stages = {stage: progress.add_task(stage, total=None) for stage in ("read", "deduplicate", "group", "split")}

    def advance(stage: str, begun: int, total: int) -> None:
        progress.update(stages[stage], completed=begun, total=total)

    return advance


def _table(manifest: DatasetManifest) -> Table:
    table = Table("split", "users", "events")
    for split, num_users in manifest.num_users.items():
        table.add_row(split, f"{num_users:,}", f"{manifest.num_events[split]:,}")
    return table


if __name__ == "__main__":
    run(PrepareJob, main)
