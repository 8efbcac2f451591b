"""A recipe, K, seed and D on a split of a dataset → rows of metrics; every result is kept, so that nothing runs twice.

    CACHE/NAME…                 prepared datasets
    CACHE/versions/CELL/        the version a cell trained; CELL.json beside it, written last, says how long that took
    CACHE/cells/CELL.json .npz  rows and curves; metrics of each user

CELL ends in a digest of the settings and of the dataset's manifest. Code is not in it, or no long run would survive a
renamed variable; an outcome has its digest instead, so that one of other code can be told. One of other lists than
today's is not used: the version is measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import mind_dist
from benchmarks.datasets import COMIREC_SPLIT, open_dataset
from benchmarks.floors import fitted
from benchmarks.folders import info_of
from benchmarks.leave_one_out import leave_one_out
from benchmarks.measuring import Measurement, ModelInterests, PerUser, measure
from benchmarks.tasks import History, Part, Protocol, Stage, Task, user_split
from benchmarks.trained import changed, of_length, of_protocol, settings_of
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError
from mind_dist.evaluation import Cut
from mind_dist.evaluation.floors import FLOORS
from mind_dist.evaluation.measuring import CURVE_CUTOFFS
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun


@dataclass(frozen=True)
class Bench:
    """What all cells have in common.

    Attributes:
        data: Folder of the Parquet files.
        cache: Where everything is kept.
        protocol: How users are cut.
        part: Whose users are measured.
        max_steps: Bound of every training; 0 for the recipes' own.
        max_behaviors: Longest history L; 0 for the dataset's own.
        cut: Where valid and test users are cut in the user split.
    """

    data: str
    cache: Path
    protocol: Protocol
    part: Part
    max_steps: int = 0
    max_behaviors: int = 0
    cut: Cut = "share"


@dataclass(frozen=True)
class Cell:
    """One thing to measure; a floor has K 1 and seed 0, and a `dim` of 0 is the recipe's own D.

    `split` is the seed by which users are split; all of leave-one-out are of one. `changes` are settings in place of the
    recipe's own, as `benchmarks.choose` tries them.
    """

    dataset: str
    recipe: str
    k: int = 1
    seed: int = 0
    dim: int = 0
    split: int = COMIREC_SPLIT
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        rows: One for the history kept, one for it removed, as they are in `reports/quality.json`.
        curves: Curves by history and name.
        per_user: Metric → value for each user, by history.
        users: Their keys.
        code: What `code_digest` returned when it was measured.
    """

    rows: list[dict[str, Any]]
    curves: dict[str, dict[str, list[list[float]]]]
    per_user: dict[str, PerUser]
    users: list[int]
    code: str


@cache
def open_task(bench: Bench, name: str, split: int = COMIREC_SPLIT) -> Task:
    """Return what is to be done with a split of a dataset, which is prepared if it is not there.

    Raises:
        ConfigError: Its files are not in the bench's folder, or are not of the form that `folders` tells.
    """
    if bench.protocol == "leave-one-out":
        return leave_one_out(name, bench.data, bench.cache)
    return user_split(info_of(name, bench.data), open_dataset(name, bench.data, bench.cache, split), bench.cut)


def train_cell(dataset: PreparedDataset, recipe: Recipe, directory: Path) -> InterestEncoder:
    """Train a recipe on a dataset, in this process, and return the version it ends with."""
    examples = ParquetExamples.of(dataset, range(dataset.manifest.num_buckets), recipe.model, recipe.training)
    run = TrainingRun(examples, dataset, recipe.model, recipe.training, source=dataset.directory.uri)
    for _ in run.steps():
        pass
    run.save(Directory.at(directory))
    return InterestEncoder.load(str(directory))


def recipe_of(bench: Bench, cell: Cell, dataset: PreparedDataset) -> Recipe:
    """Return a cell's recipe with its K, seed and D, and what the dataset decides."""
    recipe = RECIPES[cell.recipe]()
    dim = cell.dim or recipe.model.dim
    model = dataset.manifest.fit(dataclasses.replace(recipe.model, num_interests=cell.k, dim=dim))
    task = open_task(bench, cell.dataset, cell.split)
    training = of_protocol(of_length(recipe.training, task.max_behaviors), bench.protocol)
    if bench.max_behaviors:
        training = of_length(training, bench.max_behaviors)
    max_steps = bench.max_steps or training.max_steps
    training = dataclasses.replace(training, seed=cell.seed, max_steps=max_steps, checkpoint_every_steps=0)
    return changed(Recipe(model, training), cell.changes)


def run_cell(bench: Bench, cell: Cell, *, remeasure: bool = False) -> Outcome:
    """Return what came of a cell: from the cache, or by training and measuring it.

    Args:
        bench: What all cells have in common.
        cell: Which one.
        remeasure: Measure again, with the stored version.

    Raises:
        ConfigError: A recipe with changes is to be measured on the test users.
    """
    if cell.changes and bench.part == "test":
        raise ConfigError(
            "part", "settings are chosen on the valid users; what was chosen goes into the recipe, then test"
        )
    task = open_task(bench, cell.dataset, cell.split)
    key = _key(bench, cell, task)
    at = bench.cache / "cells" / (key if bench.cut == "share" else f"{key}-{bench.cut}")  # versions know of no cut
    if not remeasure and (kept := _read(at)) is not None:
        return kept
    stage = task.stage(bench.part)
    if cell.recipe in FLOORS:
        measured, settings, train_s = _measure_floor(task, stage, cell)
        dim = 0
    else:
        encoder, train_s = _version(bench, cell, stage, bench.cache / "versions" / key)
        interests, settings, dim = ModelInterests(encoder, stage), {}, encoder.config.dim
        category = task.info.category
        measured = {history: interests.measure(task.protocol, category, history) for history in task.histories}
    about = {"dim": dim, "train_s": round(train_s, 1), "settings": settings, "part": bench.part, "cut": bench.cut}
    about |= {"recipe_digest": recipe_digest(bench, cell, stage.dataset)}
    outcome = outcome_of(cell, measured, about, stage)
    _write(at, outcome)
    return outcome


def _measure_floor(task: Task, stage: Stage, cell: Cell) -> tuple[dict[History, Measurement], dict[str, Any], float]:
    floor = fitted(cell.recipe, task, stage)
    found = {
        history: measure(floor.recommender, stage, task.protocol, task.info.category, history)
        for history in task.histories
    }
    tuning = floor.tuning
    about = {"valid": round(tuning.valid_recall, 4), "trials": tuning.num_trials, "finished": tuning.finished}
    return found, tuning.settings | about, tuning.cpu_s


def _version(bench: Bench, cell: Cell, stage: Stage, directory: Path) -> tuple[InterestEncoder, float]:
    """Return a cell's version and how long its training took."""
    timing = directory.with_name(f"{directory.name}.json")
    if not timing.exists():
        Directory.at(directory).delete()
        started = time.monotonic()
        train_cell(stage.dataset, recipe_of(bench, cell, stage.dataset), directory)
        timing.write_text(json.dumps({"train_s": time.monotonic() - started}))
    return InterestEncoder.load(str(directory)), json.loads(timing.read_text())["train_s"]


def outcome_of(cell: Cell, measured: Mapping[History, Measurement], about: dict[str, Any], stage: Stage) -> Outcome:
    """Return what was measured on a stage as an outcome, `about` in every row."""
    rows = [
        dataclasses.asdict(cell) | {"history": history} | found.means() | found.figures | about
        for history, found in measured.items()
    ]
    curves = {str(history): found.curves for history, found in measured.items()}
    per_user = {str(history): found.per_user for history, found in measured.items()}
    return Outcome(rows, curves, per_user, [user.history.user_key for user in stage.users], code_digest())


@cache
def code_digest() -> str:
    """Return a digest of the code that decides what a cell comes to."""
    package = Path(mind_dist.__file__).parent
    parts = ("model", "training", "dataset", "examples", "evaluation", "encoder", "keys.py")
    files = [path for part in parts for path in sorted((package / part).rglob("*.py")) or [package / part]]
    files += sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


def recipe_digest(bench: Bench, cell: Cell, dataset: PreparedDataset) -> str:
    """Return a digest of all settings but the seed; empty of a floor, which is tuned anew each time, and of a try."""
    if cell.recipe in FLOORS or bench.max_steps:
        return ""
    settings = settings_of(recipe_of(bench, dataclasses.replace(cell, seed=0), dataset))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def settings_tested(bench: Bench, cell: Cell) -> int:
    """Return how many settings of a cell's recipe were ever measured on its test users, with this cache.

    One is as it should be: where there are more, the best of them owes something to chance.
    """
    found = set()
    for path in (bench.cache / "cells").glob(f"{cell.dataset}-{cell.recipe}-k{cell.k}-*.json"):
        row = json.loads(path.read_text())["rows"][0]
        if (row["part"], row["split"], row["dim"]) == ("test", cell.split, cell.dim or row["dim"]):
            found.add(row.get("recipe_digest", path.stem))
    return len(found - {""})


def _key(bench: Bench, cell: Cell, task: Task) -> str:
    """Return a name of a cell that changes with whatever is set."""
    dataset = task.stage(bench.part).dataset
    if cell.recipe in FLOORS:
        settings: Any = repr(FLOORS[cell.recipe].searched)
    else:
        settings = settings_of(recipe_of(bench, cell, dataset))
    parts = [settings, bench.protocol, bench.part, dataset.directory.read_bytes("manifest.json").decode()]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]
    width = f"-d{cell.dim}" if cell.dim else ""
    return f"{cell.dataset}-{cell.recipe}-k{cell.k}{width}-s{cell.seed}-{digest}"


def _write(at: Path, outcome: Outcome) -> None:
    """Write an outcome: the arrays first, the JSON file, which makes it whole, at once."""
    at.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        f"{name}/{history}": values for history, found in outcome.per_user.items() for name, values in found.items()
    }
    np.savez_compressed(at.with_suffix(".npz"), users=np.array(outcome.users), **arrays)
    values = {"rows": outcome.rows, "curves": outcome.curves, "code": outcome.code}
    content = json.dumps(values, indent=2).encode()
    Directory.at(at.parent).write_bytes(f"{at.name}.json", content)


def _read(at: Path) -> Outcome | None:
    """Return the outcome written there; None without one, or if its lists are not as long as today's."""
    if not at.with_suffix(".json").exists():
        return None
    values = json.loads(at.with_suffix(".json").read_text())
    if any(tuple(limit for limit, _ in curves["recall"]) != CURVE_CUTOFFS for curves in values["curves"].values()):
        return None
    per_user: dict[str, PerUser] = {}
    with np.load(at.with_suffix(".npz")) as arrays:
        users = arrays["users"].tolist()
        for name in arrays.files:
            metric, _, history = name.rpartition("/")
            if metric:
                per_user.setdefault(history, {})[metric] = arrays[name]
    return Outcome(values["rows"], values["curves"], per_user, users, values["code"])
