"""What a training step costs, beside peers: processor time, examples a second, and memory, by the number of items and workers.

python -m benchmarks.training                                        # 10^5 and 10^6 items, 1 and 2 workers
python -m benchmarks.training --items 10000000 --impls mind_dist torchrec --models mind best

The peers besides torch-rechub train the network of our recipe; what differs is what holds the items' rows. torch-rechub trains
its own MIND by its own trainer, with 20 negatives a window where all others share 2,048. Every cell runs in processes of its
own, with one thread each. Processor time is summed over the workers of a step; memory is the most that any of them used. The
peers are no dependencies: `make bench-training` installs them (benchmarks/peers.txt). What of a step each phase took
is in the file that it writes.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.training_impls import IMPLEMENTATIONS
from jobs.cli import run
from jobs.tables import print_readable
from mind_dist.strict_json import from_json, to_json

_LONGEST_S = 600


@dataclass(frozen=True)
class Training:
    """Measure training steps."""

    items: tuple[int, ...] = (100_000, 1_000_000)
    """Numbers of items."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers, which share a step of 1,024 windows."""
    models: tuple[str, ...] = ("mind",)
    """Recipes whose networks are trained."""
    impls: tuple[str, ...] = tuple(IMPLEMENTATIONS)
    """Implementations; torch_rechub trains on one worker and mind alone."""
    steps: int = 20
    """Steps that count."""
    warm_steps: int = 5
    """Steps before them."""
    output: Path = Path("reports/training.json")
    """Where the rows go; those measured before stay, but for the same cells."""


def main(job: Training) -> None:
    """Measure cell by cell, show and keep."""
    rows = from_json(job.output.read_text()) if job.output.exists() else []
    cells = [
        (impl, model, items, workers)
        for model in job.models
        for items in job.items
        for workers in job.workers
        for impl in job.impls
        if impl != "torch_rechub" or (workers == 1 and model == "mind")
    ]
    for cell in cells:
        row = _measured(job, *cell)
        rows = [each for each in rows if (each["impl"], each["model"], each["items"], each["workers"]) != cell] + [row]
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.output.write_text(to_json(rows, indent=2) + "\n")
        print(to_json(row), flush=True)
    print_readable(_table(rows))


def _measured(job: Training, impl: str, model: str, items: int, workers: int) -> dict[str, object]:
    """Return the row of a cell; one that fails has the reason in place of figures."""
    cell: dict[str, object] = {"impl": impl, "model": model, "items": items, "workers": workers}
    asked = to_json({**cell, "num_warm": job.warm_steps, "num_steps": job.steps})
    command = [sys.executable, "-m", "benchmarks.training_one", asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)  # noqa: S603 - ours
    if done.returncode:
        return {**cell, "failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "killed"}
    return {**cell, **from_json(done.stdout.strip().splitlines()[-1])}


def _table(rows: list[dict[str, object]]) -> Table:
    table = Table("model", "items", "workers", "implementation", "CPU ms a step", "examples/s", "peak GB")
    for row in sorted(rows, key=lambda each: [str(each["model"]), each["items"], each["workers"]]):
        where = [str(row["model"]), f"{row['items']:,}", str(row["workers"]), str(row["impl"])]
        if "failed" in row:
            table.add_row(*where, str(row["failed"]))
            continue
        table.add_row(*where, f"{row['cpu_ms_per_step']:.1f}", f"{row['samples_per_s']:,.0f}", f"{row['peak_gb']:.2f}")
    return table


if __name__ == "__main__":
    run(Training, main)
