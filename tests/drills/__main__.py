"""Faults on purpose, on Apache Kafka and Milvus, and what users' states and rows are afterwards, beside an oracle.

python -m tests.drills                                     # all of them, a part of the runs of each: some 15 minutes
python -m tests.drills --drills killed-in-each-step --full # all runs of one of them
python -m tests.drills --list

The oracle recomputes all users from the log, one record after the other. A drill is fine where no event is lost or repeated,
and every row equals, bit for bit, what the log gives. Rows go to `reports/drills.json`.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jobs.cli import run
from jobs.tables import print_readable
from mind_dist.errors import ConfigError
from mind_dist.observability import configure_logging
from mind_dist.strict_json import to_json
from tests.drills.all_drills import DRILLS, Drill
from tests.drills.report import BROKER, Outcome, Run, keep, table
from tests.drills.site import Site, Store, sites, tell


@dataclass(frozen=True)
class Drills:
    """Which drills, and how much of each."""

    drills: tuple[str, ...] = ()
    """Which; empty for all. --list names them."""
    stores: tuple[Store, ...] = ("standalone", "lite")
    """Milvus standalone and Milvus Lite; on Lite those drills alone that do not need the real server."""
    seed: int = 0
    """Where random numbers begin."""
    full: bool = False
    """All runs of each drill: hours."""
    at_once: int = 3
    """Runs at the same time, where a drill has several."""
    records: int = 150_000
    """Records of the log of `whole-log`."""
    list: bool = False
    """Name the drills, and what each does."""
    output: Path = Path("reports/drills.json")
    """Where the rows are kept; one of the same drill, broker and store takes the place of the last."""


def main(job: Drills) -> int:
    """Do them one after the other; returns 1 where one is not fine.

    Raises:
        ConfigError: There is no such drill.
    """
    if unknown := set(job.drills) - {drill.name for drill in DRILLS}:
        raise ConfigError("drills", f"there is no {', '.join(sorted(unknown))}: see --list")
    if job.list:
        for drill in DRILLS:
            print(f"{drill.name:24} {drill.run.__doc__ or ''}")
        return 0
    wanted = [drill for drill in DRILLS if not job.drills or drill.name in job.drills]
    folder = Path(tempfile.mkdtemp(prefix="mind-dist-drills-"))
    os.environ["MIND_DIST_CACHE"] = str(folder / "cache")
    configure_logging(logging.WARNING)
    rows, is_fine = [], True
    with sites(job.stores, folder, seed=job.seed, full=job.full, at_once=job.at_once, records=job.records) as found:
        for drill in wanted:
            for store in [each for each in job.stores if each in drill.stores]:
                outcome = _do(drill, found[store])
                is_fine &= outcome.ok
                rows.append(outcome.row())
                keep(outcome.row(), job.output)
    print_readable(table(rows))
    if is_fine:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        Console(stderr=True).print(f"logs are in {folder}")
    return 0 if is_fine else 1


def _do(drill: Drill, site: Site) -> Outcome:
    tell(f"{drill.name} on {site.store} …")
    started = time.monotonic()
    try:
        runs = drill.run(site)
    except Exception as error:  # noqa: BLE001 - the other drills are worth their rows
        runs = [Run(problems=(f"{type(error).__name__}: {error}",))]
    outcome = Outcome.of(drill.name, BROKER, site.store, runs)
    tell(f"{'fine' if outcome.ok else 'NOT FINE'} in {time.monotonic() - started:.0f} s: {to_json(outcome.row())}")
    return outcome


if __name__ == "__main__":
    run(Drills, main)
