"""What a model version costs a replica: time to load, and memory beyond a process that has loaded a version of few items.

OMP_NUM_THREADS=1 python -m benchmarks.replica_memory --num-items 1000000
OMP_NUM_THREADS=1 python -m benchmarks.replica_memory --num-items 1000000 --replicas 2

Peak is the highest resident memory of each process (VmHWM), PSS divides what processes share among them. The first replica of a
node finds no cache of the version, others do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from jobs.cli import run
from mind_dist.checkpoint import TableRows, VersionWriter, seal
from mind_dist.config import dump
from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.keys import IdType
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.recipes import RECIPES
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json

_FEW = 1000


@dataclass(frozen=True)
class ReplicaMemory:
    """Measure what loading a version takes."""

    num_items: int = 1_000_000
    """Items of the version, of `best` with random parameters."""
    replicas: int = 2
    """Processes of one node that have it loaded at the same time, started one after the other."""
    directory: Path | None = None
    """Where the version is written, and found again; none for a temporary one."""


def main(job: ReplicaMemory) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = job.directory or Path(scratch)
        environment = {**os.environ, "MIND_DIST_CACHE": str(Path(scratch) / "cache")}
        base, *_ = _replicas(write_version(directory / "few", _FEW), 1, environment)
        found = _replicas(write_version(directory / f"{job.num_items}", job.num_items), job.replicas, environment)
    table = Table("MB beyond the base", "resident", "PSS", "anonymous", "peak", "seconds to load")
    for place, each in enumerate(found, 1):
        beyond = [f"{(each[name] - base[name]) / 1e6:,.0f}" for name in ("Rss", "Pss", "Anonymous", "peak")]
        table.add_row(f"replica {place}", *beyond, f"{each['seconds']:.1f}")
    Console().print(table)
    Console().print(f"the base: resident {base['Rss'] / 1e6:,.0f} MB, peak {base['peak'] / 1e6:,.0f} MB")


def write_version(directory: Path, num_items: int, id_type: IdType = "string") -> str:
    """Write a version of `best` with random parameters and items, unless it is there; return its URI."""
    if (directory / "manifest.json").exists():
        return str(directory)
    recipe, random = RECIPES["best"](), np.random.default_rng(0)
    keys = np.unique(random.integers(-(1 << 62), 1 << 62, num_items + num_items // 50))[:num_items]
    ids = pa.array([f"K-{number:08d}" for number in range(num_items)])
    lists = pa.ListArray.from_arrays(pa.array(np.zeros(num_items + 1, np.int32)), pa.array([], pa.int64()))
    columns = [pa.array(keys), ids, pa.array(np.ones(num_items, np.int64)), lists]
    catalog = pa.Table.from_arrays(columns, schema=ITEM_SCHEMA)
    catalog = catalog.append_column("title", pa.array([f"the title of item {number}" for number in range(num_items)]))
    vectors = random.standard_normal((num_items, recipe.model.dim), dtype=np.float32)
    ones = np.ones(num_items, dtype=np.int64)
    writer = VersionWriter(Directory.at(directory))
    torch.manual_seed(0)
    writer.write_dense(MultiInterestModel(recipe.model).state_dict())
    writer.write_optimizer({})
    writer.write_item_shard(0, 1, [TableRows(keys, vectors, vectors, vectors, ones, ones, ones)])
    writer.write_catalog(ItemCatalog(catalog))
    sections = {"model": dump(recipe.model), "training": dump(recipe.training)}
    about = {"step": 0, "watermark_ms": 0, "positions": {}, "metrics": {}, "source": "random numbers"}
    seal(writer.directory, writer.files, config=sections, id_type=id_type, **about)  # type: ignore[arg-type]
    return str(directory)


def _replicas(uri: str, count: int, environment: dict[str, str]) -> list[dict[str, float]]:
    """Return what each of some processes uses, once all of them have the version loaded."""
    command = [sys.executable, "-m", "benchmarks.replica_memory_one", uri]
    processes = []
    for _ in range(count):
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe))  # noqa: S603 - ours
        _line(processes[-1])
    found = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"measure\n")
        process.stdin.flush()
        found.append(from_json(_line(process)))
    for process in processes:
        process.communicate(b"end\n")
    return found


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line: bytes = process.stdout.readline()
    if not line:
        raise RuntimeError("a replica ended before it said anything; its own message is above")
    return line


if __name__ == "__main__":
    run(ReplicaMemory, main)
