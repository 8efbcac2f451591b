"""Whether several workers come to what one does: the same recipe, the same steps, several seeds.

python -m benchmarks.workers                            # MovieLens-100K, minutes
python -m benchmarks.workers --dataset ml1m --data DIR       # an hour of two cores

Figures are the valid users', recall@50 with the history kept / removed, of the version that a training ends with. Workers are
processes that exchange by gloo, as Ray Train's do.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import distributed
from torch import multiprocessing as processes

from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.datasets import open_dataset
from jobs.cli import run
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation.valid_users import open_valid_users
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.strict_json import from_json, to_json
from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank
from mind_dist.training.run import TrainingRun

_EVERYBODY = 1 << 40


@dataclass(frozen=True)
class Workers:
    """Compare several workers with one."""

    dataset: str = MOVIELENS_100K
    """What is trained on."""
    data: str = ""
    """Folder of the Parquet files."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets are kept."""
    recipe: str = "best"
    """What is trained."""
    workers: tuple[int, ...] = (1, 2)
    """How many of them."""
    seeds: tuple[int, ...] = (17, 18, 19)
    """Seeds of the trainings."""
    epochs: int = 3
    """Passes over the dataset."""
    max_steps: int = 0
    """Bound of every training; 0 for none."""
    output: Path | None = None
    """Write the figures here as JSON, too."""


def recalls(dataset: PreparedDataset, job: Workers, num_workers: int, seed: int) -> tuple[float, float]:
    """Train with so many workers, and return the valid users' recall with the history kept, and removed."""
    recipe = RECIPES[job.recipe]()
    training = dataclasses.replace(recipe.training, seed=seed, epochs=job.epochs, max_steps=job.max_steps)
    recipe = Recipe(dataset.manifest.fit(recipe.model), training)
    if num_workers == 1:
        return _trained(SingleRank(), dataset, recipe)
    with tempfile.TemporaryDirectory() as directory:
        arguments = (num_workers, directory, dataset.directory.uri, recipe)
        processes.spawn(_rank, args=arguments, nprocs=num_workers)  # type: ignore[attr-defined, no-untyped-call]
        kept, removed = from_json(Path(directory, "recalls").read_text())
    return kept, removed


def _rank(rank: int, num_workers: int, directory: str, dataset_uri: str, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{directory}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_workers)
    ranks = ProcessGroup(torch.device("cpu"))
    found = _trained(ranks, PreparedDataset.open(dataset_uri), recipe)
    if rank == 0:
        Path(directory, "recalls").write_text(to_json(found))
    distributed.destroy_process_group()


def _trained(ranks: Collectives, dataset: PreparedDataset, recipe: Recipe) -> tuple[float, float]:
    mine = range(ranks.rank, dataset.manifest.num_buckets, ranks.world_size)
    examples = ParquetExamples.of(dataset, mine, recipe.model, recipe.training)
    source = dataset.directory.uri
    opened = TrainingRun(examples, dataset, recipe.model, recipe.training, source=source, collectives=ranks)
    for _ in opened.steps():
        pass
    users = open_valid_users(dataset, _EVERYBODY)
    kept, removed, num_users = ranks.sum(users.recall_sums(opened.unsaved(), ranks.rank, ranks.world_size))
    return kept / num_users, removed / num_users


def main(job: Workers) -> None:
    """Compare and show."""
    torch.set_num_threads(1)
    dataset, console = open_dataset(job.dataset, job.data, job.cache), Console()
    found: dict[str, list[tuple[float, float]]] = {}
    for num_workers in job.workers:
        for seed in job.seeds:
            pair = recalls(dataset, job, num_workers, seed)
            console.print(f"{num_workers} workers, seed {seed}: {pair[0]:.4f}/{pair[1]:.4f}")
            found.setdefault(str(num_workers), []).append(pair)
    table = Table("workers", "recall@50, history kept", "removed")
    for name, pairs in found.items():
        columns = np.array(pairs).T
        table.add_row(name, *(f"{values.mean():.4f} ±{values.std(ddof=1):.4f}" for values in columns))
    console.print(table)
    if job.output is not None:
        job.output.write_text(to_json(found, indent=2) + "\n")


if __name__ == "__main__":
    run(Workers, main)
