"""A broker or a Milvus that is killed, frozen or wiped under load, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mind_dist.errors import MindDistError
from mind_dist.local_process import LocalProcess
from tests.drills.load import Load
from tests.drills.replica import Replica
from tests.drills.report import Figures, Run
from tests.drills.site import Site, eventually, kill_and_restart, signal_all
from tests.drills.soak import resident_mb
from tests.drills.worlds import VIEWS, DrillWorld
from tests.replicas import kafka_arguments

PER_S = 100
FROZEN_S = 20.0
AWAY_S = 5.0
MAX_GROWTH_MB = 100.0
"""Memory that a replica may gain while a service is away."""
REPOSITORY = Path(__file__).parents[2]
_NOT_DATA = {"bin", "configs", "etcd.yaml", "milvus.log", "ports.json"}


def broker_killed(site: Site) -> list[Run]:
    """Kill the broker with -9 under load, and start it again: nothing that it has acknowledged is lost."""
    return [_outage(site, lambda _drill: kill_and_restart(site.kafka, AWAY_S))]


def milvus_killed(site: Site) -> list[Run]:
    """Kill Milvus with -9 under load, and start it again: states go on, and rows follow."""

    def kill(drill: DrillWorld) -> float:
        started = time.monotonic()
        kill_and_restart(site.milvus, AWAY_S)
        # a standalone server says that it is well half a minute before it answers reads
        eventually(lambda: _is_read(drill), 120, "Milvus answers")
        return time.monotonic() - started - AWAY_S

    return [_outage(site, kill)]


def _is_read(drill: DrillWorld) -> bool:
    try:
        drill.world.store.get_users(drill.world.version, [0], strong=True)
    except MindDistError:
        return False
    return True


def milvus_frozen(site: Site) -> list[Run]:
    """Freeze Milvus for 20 s under load: states go on, and rows follow."""

    def freeze(_drill: DrillWorld) -> float:
        signal_all(site.milvus, signal.SIGSTOP)
        time.sleep(FROZEN_S)
        signal_all(site.milvus, signal.SIGCONT)
        return 0.0

    return [_outage(site, freeze)]


def milvus_wiped(site: Site) -> list[Run]:
    """Remove all that Milvus has under load: one command, `jobs.publish`, makes all rows again."""

    def wipe(drill: DrillWorld) -> float:
        started = time.monotonic()
        site.milvus.stop()
        remove_data(site.milvus)
        site.milvus.start()
        site.milvus.wait_ready()
        publish(drill)
        return time.monotonic() - started

    return [_outage(site, wipe)]


def remove_data(milvus: LocalProcess) -> None:
    """Remove what a stopped Milvus has stored; its program stays."""
    for path in milvus.log.parent.iterdir():
        if path.is_dir() and path.name not in _NOT_DATA:
            shutil.rmtree(path)


def publish(drill: DrillWorld) -> None:
    """Run the command that brings a version to readers.

    Raises:
        CalledProcessError: It did not end well; it says why in the drill's folder.
    """
    place = drill.world.place
    known = {"MIND_DIST_KAFKA": place.kafka, "MIND_DIST_MILVUS": place.milvus, "MIND_DIST_DEPLOYMENT": place.deployment}
    settings = ["--version-uri", place.uri, "--milvus.index", "FLAT", *kafka_arguments(drill.world.config)]
    settings += ["--kafka.group-prefix", drill.world.config.group_prefix]
    with (drill.folder / "publish.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "jobs.publish", *settings],
            env={**os.environ, **known},
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            check=True,
            timeout=300,
        )


def _outage(site: Site, fault: Callable[[DrillWorld], float]) -> Run:
    with DrillWorld(site, "outage", site.seed, views=replace(VIEWS, batch_size=64)) as drill:
        replica = drill.start()
        with Load(drill, PER_S, site.seed) as load:
            eventually(replica.owned, 60, "the replica owns partitions")
            time.sleep(5)
            before_mb, began = resident_mb(replica.pid), time.monotonic()
            back_s = fault(drill)
            away_s = time.monotonic() - began
            drained_s = eventually(lambda: _is_drained(drill, replica, load), 180, "all is caught up")
            after_mb = resident_mb(replica.pid)
        run = drill.finish(within_s=60)
        lost = load.num_lost(drill.world.events())
        figures: Figures = {
            "away_s": round(away_s, 1),
            "ready_again_s": round(back_s, 1),
            "drained_s": round(drained_s, 1),
            "memory_growth_mb": round(after_mb - before_mb, 1),
            "num_events": load.num_sent,
        }
        problems = [f"{lost} acknowledged events are not in the log"] if lost else []
        if drained_s > away_s:  # what waited and what came meanwhile: at least twice as fast as it comes
            problems.append(f"what waited for {away_s:.1f} s was drained only after {drained_s:.1f} s")
        if after_mb - before_mb > MAX_GROWTH_MB:
            problems.append(f"a replica's memory grew by {after_mb - before_mb:.0f} MB")
        return Run(replace(run.findings, lost=run.findings.lost + lost), figures, (*run.problems, *problems))


def _is_drained(drill: DrillWorld, replica: Replica, load: Load) -> bool:
    """Tell whether states and rows are no further behind than what comes in a second."""
    behind = [view["num_behind"] for view in replica.ask("status")["views"]]
    return bool(behind) and max(behind) <= load.per_s and drill.lag() <= load.per_s
