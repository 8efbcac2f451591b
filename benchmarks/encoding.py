"""How many users a core encodes: `InterestEncoder.encode` of a recipe's model with random parameters, in CPU time.

OMP_NUM_THREADS=1 python -m benchmarks.encoding                       # `best`: K 4, D 64, L 50
OMP_NUM_THREADS=1 python -m benchmarks.encoding --recipe mind --num-users 1 500
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from jobs.cli import run
from mind_dist.checkpoint import FORMAT_VERSION, Manifest, TableRows, UnsavedVersion
from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.encoder import InterestEncoder
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.recipes import RECIPES, Recipe
from mind_dist.records import BehaviorSequence


@dataclass(frozen=True)
class Encoding:
    """Measure users encoded a second of CPU time."""

    recipe: str = "best"
    """Whose model."""
    num_items: int = 20_000
    """Items that have a vector."""
    num_users: tuple[int, ...] = (1, 32, 500)
    """Users of one call."""
    full: float = 1.0
    """Share of the users whose history is as long as the model reads; of the others any length is as likely."""
    cpu_s: float = 5.0
    """CPU time for each number of users."""


def main(job: Encoding) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    encoder = InterestEncoder(random_version(RECIPES[job.recipe](), job.num_items))
    table = Table("users a call", "users/s of CPU", "CPU ms a call")
    for count in job.num_users:
        rate = users_per_s(encoder, count, job)
        table.add_row(f"{count:,}", f"{rate:,.0f}", f"{1000 * count / rate:.2f}")
    Console().print(table)


def random_version(recipe: Recipe, num_items: int) -> UnsavedVersion:
    """Return a recipe's model with its first parameters and random items 0, 1, …, each with nothing but its id."""
    torch.manual_seed(0)
    keys = np.arange(num_items)
    row_dim = recipe.model.row_dim
    vectors = torch.randn(num_items, row_dim).numpy()
    ones = np.ones(num_items, dtype=np.int64)
    columns = [pa.array(keys), pa.array(keys).cast(pa.string()), pa.array(ones), pa.array([[]] * num_items)]
    catalog = ItemCatalog(pa.table([c.cast(f.type) for c, f in zip(columns, ITEM_SCHEMA, strict=True)], ITEM_SCHEMA))
    manifest = Manifest(FORMAT_VERSION, "random", 0, {}, "int64", 0, 0, {}, {}, "", {})
    state = MultiInterestModel(recipe.model).state_dict()
    rows = TableRows(keys, vectors, vectors, vectors, ones, ones, ones)
    return UnsavedVersion(manifest, recipe.model, recipe.training, state, rows, catalog)


def users_per_s(encoder: InterestEncoder, count: int, job: Encoding) -> float:
    """Return how many users are encoded in a second of CPU time, `count` at a time."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, encoder.max_behaviors + 1, count)
    lengths[random.random(count) < job.full] = encoder.max_behaviors
    users = [BehaviorSequence(n, random.integers(0, job.num_items, n), np.arange(n)) for n in lengths.tolist()]
    encoder.encode(users)
    calls, started = 0, time.process_time()
    while time.process_time() < started + job.cpu_s:
        encoder.encode(users)
        calls += 1
    return calls * count / (time.process_time() - started)


if __name__ == "__main__":
    run(Encoding, main)
