"""Train a multi-interest model on Ray: prepared dataset or Kafka topic → model version.

    python -m jobs.train --dataset data/ml --storage runs --name ml --training.epochs 2
    python -m jobs.train --recipe mind_paper --dataset data/ml --storage runs --name paper
    python -m jobs.train --dataset data/ml --storage runs --name live --source kafka --follow

The same storage and name go on where the run stopped. SIGTERM ends a run after its step, with a version saved. The dataset's
valid users say how long a run is and which of its versions is the best; `--training.epochs` sets the length.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli import check_output, connect_ray, interactive, run, stop_requested, write_output
from mind_dist.config import Addresses, dump
from mind_dist.errors import StoppedBeforeSaving, without_secrets
from mind_dist.evaluation.ahead import ask_ahead
from mind_dist.evaluation.valid_users import open_valid_users
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.strict_json import to_json
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import Look, TrainProgress
from mind_dist.training.settings import TrainSettings
from mind_dist.training.tracking import MlflowTracker, TensorBoardTracker, Tracker, tracking

_LOG_EVERY_S = 5.0

logger = logging.getLogger("mind_dist.train")

_Told = TypeVar("_Told", TrainProgress, Look)


@dataclass(frozen=True)
class Train(TrainSettings):
    """Train a multi-interest model on Ray; the same storage and name go on where the run stopped.

    `--recipe NAME` takes model and training from `mind_dist.recipes`; without it they are those of `best`, and with
    `--source kafka` those of `stream`. Where `training.epochs` is 0, as in `best`, the dataset's valid users say how long
    the run is; they say in any case which of its versions is the best, which is kept, and which STORAGE/NAME then
    stands for: see `eval_every` and `watch`.
    """

    output: str = ""
    """JSON file to write the result to, too, by path or URI; empty for none."""
    tensorboard: str = ""
    """Directory for TensorBoard's event files: loss, speed and valid recalls; empty for none. Needs
    `pip install 'mind_dist[tensorboard]'`."""
    mlflow: str = ""
    """MLflow's experiment to write the same to, on the server that MLFLOW_TRACKING_URI names; empty for none. Needs
    `pip install 'mind_dist[mlflow]'`."""


def main(job: Train) -> None:
    """Train, and print what came of it.

    Raises:
        ConfigError: A path to write to is relative, and this is a submitted job.
    """
    check_output("storage", job.storage)
    check_output("output", job.output)
    check_output("tensorboard", job.tensorboard)
    trackers = open_trackers(job)
    connect_ray()
    try:
        with tracking(trackers) as track, shown_progress() as show:
            result = train_on_ray(
                job,
                Addresses.from_environment(),
                on_progress=_each(show, track.progress),
                on_look=_each(show.look, track.look),
                should_stop=stop_requested(),
                open_valid_users=open_valid_users,
                ask_ahead=ask_ahead,
            )
    except StoppedBeforeSaving as stopped:  # what was asked for is done
        print(stopped)
        return
    values = to_json(dataclasses.asdict(result), indent=2)
    if job.output:
        write_output(job.output, values)
    print(without_secrets(values))


def open_trackers(job: Train) -> list[Tracker]:
    """Return where the job's figures go, beside the screen.

    Raises:
        ConfigError: A package is missing, or a server refuses.
    """
    trackers: list[Tracker] = []
    if job.tensorboard:
        trackers.append(TensorBoardTracker(job.tensorboard))
    if job.mlflow:
        settings = {"dataset": job.dataset, "model": dump(job.model), "training": dump(job.training)}
        trackers.append(MlflowTracker(job.mlflow, job.versions.directory.uri, job.name, settings))
    return trackers


def _each(*calls: Callable[[_Told], None]) -> Callable[[_Told], None]:
    def call(told: _Told) -> None:
        for each in calls:
            each(told)

    return call


@contextmanager
def shown_progress() -> Iterator[_Bar | _Logged]:
    """Yield what shows progress and evaluations: a bar to a person, log lines to a log."""
    if not interactive():
        yield _Logged()
        return
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar)


class _Bar:
    """Shows progress as a bar, and a line for each evaluation above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("training", total=None, detail="starting workers")

    def __call__(self, progress: TrainProgress) -> None:
        detail = f"step {progress.step}  loss {progress.loss:.3f}  {progress.examples_per_s:.0f} examples/s"
        self._bar.update(self._task, total=progress.num_steps, completed=progress.step, detail=detail)

    def look(self, look: Look) -> None:
        recalls = f"{look.recall:.4f}, history removed {look.recall_removed:.4f}"
        self._bar.console.print(f"step {look.step}: {look.of} recall@50 {recalls}{', the best' * look.is_best}")


class _Logged:
    """Logs progress now and then, and every evaluation."""

    def __init__(self) -> None:
        self._logged_s = 0.0

    def __call__(self, progress: TrainProgress) -> None:
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            logger.info("training", extra={"fields": dataclasses.asdict(progress)})

    def look(self, look: Look) -> None:
        logger.info("evaluated", extra={"fields": dataclasses.asdict(look)})


def jobs_by_recipe() -> dict[str, Callable[[], Train]]:
    """Return what makes a job of each recipe, whose dataset and storage are still to be given."""

    def of(recipe: Recipe) -> Train:
        return Train(tyro.MISSING, tyro.MISSING, model=recipe.model, training=recipe.training)

    return {name: partial(of, make()) for name, make in RECIPES.items()}


def with_recipe_of_source(arguments: list[str]) -> list[str]:
    """Return a command line that names the recipe `stream` where it trains from Kafka and says nothing else of settings.

    >>> with_recipe_of_source(["--source", "kafka"])
    ['--source', 'kafka', '--recipe', 'stream']
    >>> with_recipe_of_source(["--source=kafka", "--recipe", "mine"])
    ['--source=kafka', '--recipe', 'mine']
    """
    from_kafka = "--source=kafka" in arguments or ("--source", "kafka") in pairwise(arguments)
    if from_kafka and not {"--recipe", "--config"} & set(arguments):
        return [*arguments, "--recipe", "stream"]
    return arguments


if __name__ == "__main__":
    run(Train, main, with_recipe_of_source(sys.argv[1:]), recipes=jobs_by_recipe())
