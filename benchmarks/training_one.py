"""One cell of `benchmarks.training`: its workers, in processes of their own."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from torch import distributed
from torch import multiprocessing as processes

from benchmarks.training_impls import run_steps
from benchmarks.training_load import TrainingLoad
from mind_dist.strict_json import from_json, to_json


def main(asked: dict[str, Any]) -> None:
    """Run the workers of a cell, and print its figures."""
    workers = asked["workers"]
    with tempfile.TemporaryDirectory() as directory:
        arguments = (asked, directory)
        if workers == 1:
            _worker(0, *arguments)
        else:
            processes.spawn(_worker, arguments, workers)  # type: ignore[attr-defined, no-untyped-call]
        found = [from_json(Path(directory, str(rank)).read_text()) for rank in range(workers)]
    wall_s = max(each["wall_s"] for each in found)
    names = found[0]["phases"]
    figures = {
        "samples_per_s": round(TrainingLoad.batch / wall_s),
        "cpu_ms_per_step": round(1000 * sum(each["cpu_s"] for each in found), 2),
        "peak_gb": round(max(each["peak_bytes"] for each in found) / 1e9, 3),
        "phases": {name: round(1000 * sum(each["phases"].get(name, 0) for each in found), 2) for name in names},
    }
    print(to_json(figures))


def _worker(rank: int, asked: dict[str, Any], directory: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = TrainingLoad(asked["model"], asked["items"], asked["workers"])
    needs_group = load.workers > 1 or asked["impl"] == "torchrec"
    if needs_group:
        meeting = f"file://{directory}/meeting"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=load.workers)
    found = run_steps(asked["impl"], load, rank, asked["num_warm"], asked["num_steps"])
    Path(directory, str(rank)).write_text(to_json(found))
    if needs_group:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(from_json(sys.argv[1]))
