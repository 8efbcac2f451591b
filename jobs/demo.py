"""The whole system on MovieLens-100K, with everything it needs started as real local processes.

    python -m jobs.demo [--exit]

prepare → train → evaluate → publish → serve → replay the held-out tail through Kafka → retrieve. Ends with a table,
and the same in `demo-report.json`; then serves on until Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.table import Table

from jobs.cli import run, stop_requested
from mind_dist.config import ServingConfig, TrainingConfig
from mind_dist.local_stack import LocalStack
from mind_dist.ports import check_port
from mind_dist.recipes import best
from mind_dist.strict_json import to_json


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Demo:
    """See the whole system work on MovieLens-100K; needs nothing but this package."""

    exit: bool = False
    """End when the report is written, instead of serving on until Ctrl-C."""
    directory: Path = Path(".mind_dist/demo")
    """Data, versions and logs; emptied at the start."""
    report: Path = Path("demo-report.json")
    """Where the report goes."""
    workers: int = 2
    """Ray Train workers."""
    rate: float = 500.0
    """Events a second replayed through Kafka."""
    training: TrainingConfig = field(
        default_factory=lambda: dataclasses.replace(best().training, epochs=3, id_dropout=0.1)
    )
    """How the model is trained: `best`, for as long as an onlooker waits; `id_dropout` keeps the films that nobody has
    rated from a fifth of the places, at the same recall of the valid users."""
    serving: ServingConfig = field(default_factory=lambda: ServingConfig(category_column="genres"))
    """How it is served."""


def main(job: Demo) -> None:
    """Start what is needed, run the whole line, show what came of it, and serve on."""
    started = time.monotonic()
    check_port(job.serving.host, job.serving.port, purpose="HTTP", advice="choose another with --serving.port")
    shutil.rmtree(job.directory, ignore_errors=True)
    console = Console()
    console.print("starting a broker, a vector store and Ray")
    with LocalStack.start(job.directory / "stack") as stack:
        console.print(f"logs are in {stack.directory}")
        os.environ.update(stack.environment)
        from jobs.demo_line import serving_line  # noqa: PLC0415 - Ray reads its token when it is imported

        with serving_line(job, console) as (report, url):
            stop = stop_requested()
            report["wall_s"] = round(time.monotonic() - started, 1)
            job.report.write_text(to_json(report, indent=2) + "\n")
            console.print(summary(report), report["verdict"], f"the same is in {job.report}", sep="\n")
            if not job.exit:
                console.print(f"serving at {url}/docs until Ctrl-C")
            while not job.exit and not stop():
                time.sleep(0.2)


def summary(report: Mapping[str, Any]) -> Table:
    """Return what a person wants to know."""
    table = Table(title=f"MovieLens-100K, model {report['model_version']}", show_header=False)
    for name, metrics in report["metrics"].items():
        table.add_row(f"recall@50, {name}", f"{metrics['recall@50']:.3f}")
    stream = report["stream"]
    table.add_row("events applied / replayed", f"{stream['events_applied']:,} / {stream['events_replayed']:,}")
    table.add_row("poison records", f"{stream['poison']}")
    quantiles = stream["freshness_ms"]
    table.add_row("freshness p50 / p99", f"{quantiles['p50']:.0f} / {quantiles['p99']:.0f} ms")
    table.add_row("version mismatches", f"{report['version_mismatches']}")
    user = report["user"]
    for when, interests in user["titles_per_interest"].items():
        for number, titles in enumerate(interests, start=1):
            table.add_row(f"user {user['user_id']}, {when}, interest {number}", ", ".join(titles))
    table.add_row("wall time", f"{report['wall_s']:.0f} s")
    return table


if __name__ == "__main__":
    run(Demo, main)
