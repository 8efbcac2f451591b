"""Train a multi-interest model on Ray: prepared dataset or Kafka topic → model version.

    python -m jobs.train --dataset data/ml --storage runs --name ml --training.epochs 2
    python -m jobs.train --recipe mind_paper --dataset data/ml --storage runs --name paper
    python -m jobs.train --dataset data/ml --storage runs --name live --source kafka --follow

The same storage and name go on where the run stopped. SIGTERM ends a run after its step, with a version saved.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli import check_output, connect_ray, interactive, run, stop_requested, write_output
from mind_dist.config import Addresses
from mind_dist.errors import StoppedBeforeSaving, without_secrets
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.strict_json import to_json
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import TrainProgress
from mind_dist.training.settings import TrainSettings

_LOG_EVERY_S = 5.0

logger = logging.getLogger("mind_dist.train")


@dataclass(frozen=True)
class Train(TrainSettings):
    """Train a multi-interest model on Ray; the same storage and name go on where the run stopped.

    `--recipe NAME` takes model and training from `mind_dist.recipes`; they are those of `best` without it.
    """

    output: str = ""
    """JSON file to write the result to, too, by path or URI; empty for none."""


def main(job: Train) -> None:
    """Train, and print what came of it.

    Raises:
        ConfigError: A path to write to is relative, and this is a submitted job.
    """
    check_output("storage", job.storage)
    check_output("output", job.output)
    connect_ray()
    try:
        with shown_progress() as show:
            result = train_on_ray(job, Addresses.from_environment(), on_progress=show, should_stop=stop_requested())
    except StoppedBeforeSaving as stopped:  # what was asked for is done
        print(stopped)
        return
    values = to_json(dataclasses.asdict(result), indent=2)
    if job.output:
        write_output(job.output, values)
    print(without_secrets(values))


@contextmanager
def shown_progress() -> Iterator[Callable[[TrainProgress], None]]:
    """Yield a function that shows progress: a bar to a person, a log line every few seconds to a log."""
    if not interactive():
        yield _Logged()
        return
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, detail="starting workers")

        def show(progress: TrainProgress) -> None:
            detail = f"step {progress.step}  loss {progress.loss:.3f}  {progress.examples_per_s:.0f} examples/s"
            bar.update(task, total=progress.num_steps, completed=progress.step, detail=detail)

        yield show


class _Logged:
    """Logs progress, now and then."""

    def __init__(self) -> None:
        self._logged_s = 0.0

    def __call__(self, progress: TrainProgress) -> None:
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            logger.info("training", extra={"fields": dataclasses.asdict(progress)})


def _trained_by(recipe: Recipe) -> Train:
    """Return a job whose dataset and storage are still to be given."""
    return Train(tyro.MISSING, tyro.MISSING, model=recipe.model, training=recipe.training)


if __name__ == "__main__":
    run(Train, main, recipes={name: partial(_trained_by, make()) for name, make in RECIPES.items()})
