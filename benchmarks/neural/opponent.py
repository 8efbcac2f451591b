"""The command of a neural opponent: search on the valid users, train the best on, measure the test users once, store."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, with_config

from benchmarks.cells import Bench, Cell, open_task, outcome_of
from benchmarks.datasets import COMIREC_SPLIT
from benchmarks.measuring import measure
from benchmarks.neural.model import DIM, Settings
from benchmarks.neural.search import Found, Plan, Space, draw, search
from benchmarks.neural.stored import STORED, store, stored_result
from benchmarks.neural.training import Trial
from benchmarks.tasks import Protocol, Task
from mind_dist.errors import ConfigError
from mind_dist.evaluation import ExactRecommender


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class OpponentJob:
    """Search settings on the valid users, train the best on, measure it on the test users, and store the result."""

    dataset: str = "movielens_100k"
    """What to train on."""
    data: str = ""
    """Folder of the Parquet files; MovieLens-100K needs none."""
    protocol: Protocol = "user-split"
    """How users are cut."""
    split: int = COMIREC_SPLIT
    """Seed by which users are split."""
    num_trials: int = 16
    """Settings to search; 0 takes those that the search on split 1230 ended with, whatever the protocol."""
    first_s: float = 60.0
    """Processor seconds of each trial in the first round; in each further one half of them go on for twice as long."""
    limit_s: float = 1800.0
    """Processor seconds of the best one, at most."""
    every_s: float = 30.0
    """Processor seconds between two looks at the valid users."""
    patience: int = 10
    """Looks without a better one after which the best is trained no longer."""
    seed: int = 17
    """Seed of everything random."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets are kept, and trials, so that an interrupted search goes on where it stopped."""
    output: Path = STORED
    """Folder of the file to add the result to."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.num_trials < 0 or self.patience < 1:
            raise ValueError("num_trials must be at least 0, and patience at least 1")
        if not 0 < self.every_s <= self.first_s <= self.limit_s:
            raise ValueError("every_s must be above 0, at most first_s, and that at most limit_s")

    def plan(self, num_trials: int) -> Plan:
        """Return how long is searched and trained."""
        return Plan(num_trials, self.first_s, self.limit_s, self.every_s, self.patience, self.seed)


def run_opponent(name: str, base: Settings, space: Space, job: OpponentJob) -> None:
    """Search, train, measure, store; says on the way what it does.

    Raises:
        ConfigError: No settings are searched, and none are stored.
    """
    cell = Cell(job.dataset, name, split=job.split)
    task = open_task(Bench(job.data, job.cache, job.protocol, "test"), job.dataset, job.split)
    candidates = draw(base, space, job.num_trials) if job.num_trials else [_stored_settings(cell, job.output)]
    directory = job.cache / "trials" / f"{name}-{job.dataset}-{job.protocol}-{job.split}-{len(candidates)}"
    with _one_thread():
        found = search(task, candidates, job.plan(len(candidates)), directory, _report)
        recommender = refitted(task, found.trial, _report)
    measured = {
        history: measure(recommender, task.reporting, task.protocol, task.info.category, history)
        for history in task.histories
    }
    best = found.trial.best
    chosen = {"valid": best.valid, "epochs": best.epochs, "trials": len(candidates)} | asdict(found.trial.settings)
    about = {"dim": DIM, "train_s": round(best.cpu_s, 1), "settings": chosen, "part": "test"}
    outcome = outcome_of(cell, measured, about, task.reporting)
    written = store(job.output, job.protocol, cell, outcome, _told(found))
    print(json.dumps(outcome.rows, indent=2), written, sep="\n")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread, and by oneDNN's products of matrices.

    Those are chosen by the precision "medium"; without units for shorter floats they are as exact as MKL's, and on AMD's
    processors twice as fast.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def refitted(task: Task, best: Trial, report: Callable[[str], None]) -> ExactRecommender:
    """Return the recommender to report: the best one, or where there is more to train on than to choose by, one as good.

    By leave-one-out the item before the last is chosen by, and then trained on, as it is by all that are compared: the
    same settings for as many epochs.
    """
    if task.reporting.dataset.directory.uri == task.choosing.dataset.directory.uri:
        return best.recommender
    report(f"again for {best.best.epochs:.2f} epochs, with what was chosen by")
    trial = Trial(task.reporting, best.settings, best.seed)
    trial.advance(lambda trained: trained.epochs >= best.best.epochs)
    return trial.recommender


def _told(found: Found) -> dict[str, Any]:
    """Return the command and the curves of all trials: settings, and [seconds, epochs, valid] at each look."""
    tried = [
        {
            "settings": asdict(settings),
            "looks": [[round(each.cpu_s, 1), round(each.epochs, 2), each.valid] for each in looks],
        }
        for settings, looks in found.tried
    ]
    return {"command": shlex.join(["python", "-m", *_module(), *sys.argv[1:]]), "tried": tried}


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [spec.name] if spec is not None else []


def _stored_settings(cell: Cell, directory: Path) -> Settings:
    of_search = Cell(cell.dataset, cell.recipe)
    found = stored_result(of_search, "user-split", directory)
    if not found:
        raise ConfigError(
            "num_trials", f"0 needs a stored search of {cell.recipe} on {cell.dataset}, and there is none"
        )
    settings = found["rows"][0]["settings"]
    return Settings(**{name: settings[name] for name in asdict(Settings())})


def _report(line: str) -> None:
    print(line, flush=True)
