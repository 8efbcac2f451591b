"""All neural opponents on the datasets of a folder, those that are not stored yet: hours, and it goes on where it stopped.

    python -m benchmarks.opponents --data ../shared/data
    python -m benchmarks.opponents --data ../shared/data --datasets ml1m --splits 1230 --again   # search again

Of each, the first split is searched; the others are trained with what was found there, and stop by their own valid users.
The test users of a split are measured once, by the model that was best on its valid users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType

from pydantic import ConfigDict, with_config

from benchmarks import esasrec, sasrec
from benchmarks.cells import Cell
from benchmarks.datasets import COMIREC_SPLIT
from benchmarks.folders import names_in
from benchmarks.neural.opponent import OpponentJob
from benchmarks.neural.stored import STORED, stored_result
from jobs.cli import run

_MAINS: Mapping[str, Callable[[OpponentJob], None]] = MappingProxyType({"sasrec": sasrec.main, "esasrec": esasrec.main})


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Opponents:
    """Search, train and store every neural opponent that is not stored yet."""

    data: str
    """Folder of the Parquet files."""
    datasets: tuple[str, ...] = ()
    """Datasets of the folder in place of all."""
    models: tuple[str, ...] = tuple(_MAINS)
    """Opponents in place of all."""
    splits: tuple[int, ...] = (COMIREC_SPLIT, 1231, 1232)
    """Seeds by which users are split, the one that is searched first."""
    again: bool = False
    """Also those that are stored."""
    num_trials: int = 16
    """Settings to search."""
    first_s: float = 60.0
    """Processor seconds of each trial in the first round."""
    limit_s: float = 1800.0
    """Processor seconds of the best one, at most."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets and trials are kept."""
    output: Path = STORED
    """Folder of the results."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if unknown := sorted(set(self.models) - set(_MAINS)):
            raise ValueError(f"models must be of {', '.join(_MAINS)}, not {', '.join(unknown)}")
        if COMIREC_SPLIT not in self.splits[:1]:
            raise ValueError(f"splits must begin with {COMIREC_SPLIT}, by which settings are searched")


def main(job: Opponents) -> None:
    """Run what is missing, a split of all before the next."""
    for split, dataset, model in product(job.splits, job.datasets or names_in(job.data), job.models):
        if job.again or not stored_result(Cell(dataset, model, split=split), "user-split", job.output):
            print(f"{model} on {dataset}, split {split}", flush=True)
            searched = OpponentJob(dataset, job.data, first_s=job.first_s, limit_s=job.limit_s, cache=job.cache)
            num_trials = job.num_trials if split == COMIREC_SPLIT else 0
            _MAINS[model](replace(searched, split=split, num_trials=num_trials, output=job.output))


if __name__ == "__main__":
    run(Opponents, main)
