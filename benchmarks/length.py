"""Whether a run that picks its own length stops where it should: beside it, the same run three times as long.

python -m benchmarks.length --datasets ml1m beauty online_retail_ii --data DIR     # hours of one core
python -m benchmarks.length                                                        # MovieLens-100K, minutes

Trains the recipe as `jobs.train` does by default, until the valid users have seen enough; then goes on from there, in further
cycles, the last of which falls to zero at three times the steps. All figures are the valid users', by whom the length is
chosen: (recall@50 with the history kept + removed) / 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.datasets import open_dataset
from jobs.cli import run
from mind_dist.checkpoint import ModelVersion
from mind_dist.config import TrainingConfig, WatchConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation.valid_users import open_valid_users
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.storage import Directory
from mind_dist.strict_json import to_json
from mind_dist.training.collectives import SingleRank
from mind_dist.training.open_run import EPOCHS_IN_CYCLES
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Look
from mind_dist.training.watching import ValidUsers, Watch

_SHOWN = Console()


@dataclass(frozen=True)
class Length:
    """What a run came to at the length that it chose, and at a multiple of it.

    Attributes:
        steps_per_epoch: Steps of the first cycle, which is a pass over the dataset.
        chosen: Looks until the run was over by itself.
        further: Looks after that.
    """

    steps_per_epoch: int
    chosen: tuple[Look, ...]
    further: tuple[Look, ...]

    @property
    def num_epochs(self) -> float:
        """Passes over the dataset that the run chose."""
        return self.chosen[-1].step / self.steps_per_epoch

    @property
    def best(self) -> float:
        """Best quality up to there."""
        return max(map(_quality, self.chosen))

    @property
    def best_of_all(self) -> float:
        """Best quality of the longer run."""
        return max(map(_quality, self.chosen + self.further))


def _quality(look: Look) -> float:
    return (look.recall + look.recall_removed) / 2


def measure_length(dataset: PreparedDataset, recipe: Recipe, times: int, directory: Path) -> Length:
    """Train until the valid users have seen enough, then on to `times` as many steps.

    Args:
        dataset: What is trained on, with valid users.
        recipe: What is trained; its `epochs` must be 0.
        times: How much longer the longer run is.
        directory: Where the version is kept from which it goes on.
    """
    users = open_valid_users(dataset, WatchConfig().max_users)
    first = _open(dataset, recipe, recipe.training)
    first.choose_length(EPOCHS_IN_CYCLES)
    chosen = tuple(_looks(first, users))
    Directory.at(directory).delete()
    first.save(Directory.at(directory))
    version = ModelVersion.open(str(directory))
    longer = dataclasses.replace(recipe.training, max_steps=times * first.step)
    second = _open(dataset, recipe, longer, version)
    second.watch = dataclasses.replace(second.watch, is_over=False)
    return Length(first.watch.first_cycle, chosen, tuple(_looks(second, users, to_the_end=True)))


def _open(
    dataset: PreparedDataset, recipe: Recipe, training: TrainingConfig, version: ModelVersion | None = None
) -> TrainingRun:
    model = dataset.manifest.fit(recipe.model)
    examples = ParquetExamples.of(
        dataset,
        range(dataset.manifest.num_buckets),
        model,
        training,
        epochs=EPOCHS_IN_CYCLES,
        positions=version.manifest.positions if version else None,
    )
    opened = TrainingRun(examples, dataset, model, training, source=dataset.directory.uri)
    if version is not None:
        opened.resume(version)
    return opened


def _looks(opened: TrainingRun, users: ValidUsers, *, to_the_end: bool = False) -> Iterator[Look]:
    watch = Watch(opened, users, WatchConfig(), 0, SingleRank())
    for _ in opened.steps():
        if watch.is_due():
            look = watch.look()
            _SHOWN.print(f"step {look.step}: {look.recall:.4f} / {look.recall_removed:.4f}")
            yield look
        if watch.is_over and not to_the_end:
            return


@dataclass(frozen=True)
class LengthJob:
    """Compare the length that a run picks with one that is longer."""

    datasets: tuple[str, ...] = (MOVIELENS_100K,)
    """What is trained on."""
    data: str = ""
    """Folder of the Parquet files."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets and versions are kept."""
    recipe: str = "best"
    """What is trained."""
    times: int = 3
    """How much longer the longer run is."""
    seed: int = 17
    """Seed of the training."""
    output: Path | None = None
    """Write all looks here as JSON, too."""


def main(job: LengthJob) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    recipe = RECIPES[job.recipe]()
    training = dataclasses.replace(recipe.training, seed=job.seed, epochs=0)
    found = {}
    for name in job.datasets:
        dataset = open_dataset(name, job.data, job.cache)
        directory = job.cache / "length" / f"{name}-{job.recipe}-{job.seed}"
        found[name] = measure_length(dataset, Recipe(recipe.model, training), job.times, directory)
    _SHOWN.print(_table(found, job.times))
    if job.output is not None:
        job.output.write_text(to_json({name: dataclasses.asdict(each) for name, each in found.items()}, indent=2))


def _table(found: dict[str, Length], times: int) -> Table:
    table = Table("", "epochs chosen", "steps", "best until there", f"best of {times} times as many", "reached")
    for name, each in found.items():
        figures: Sequence[str] = (
            f"{each.num_epochs:.1f}",
            str(each.chosen[-1].step),
            f"{each.best:.4f}",
            f"{each.best_of_all:.4f}",
            f"{each.best / each.best_of_all:.1%}",
        )
        table.add_row(name, *figures)
    return table


if __name__ == "__main__":
    run(LengthJob, main)
