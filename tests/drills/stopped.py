"""A replica that is killed, or frozen past its session and woken: in each step, at random, and between polls."""

from __future__ import annotations

import random
import shutil
import signal
import time
from typing import NamedTuple

from mind_dist.states.updater import UpdateStep
from tests.drills.replica import INSIDE_UPSERT, STEPS, Replica, StopsAt, TakeOverStep
from tests.drills.report import Run
from tests.drills.site import Site, eventually
from tests.drills.worlds import VIEWS, WITHIN_S, DrillWorld, num_repairs
from tests.views_process import ViewStep

EVENTS = 300
WORKING_WITHIN_S = 10.0
"""So long after the session of the one that died all events must be applied again."""


class Stop(NamedTuple):
    """A step and a seed."""

    step: int
    seed: int


def killed_in_each_step(site: Site) -> list[Run]:
    """Kill a replica with -9 in each step of an update, of a view and of a take-over."""
    stops = [Stop(int(step), site.seed + seed) for seed in range(4 if site.full else 1) for step in STEPS]
    return site.each(lambda stop: killed(site, stop), stops)


def killed(site: Site, stop: Stop) -> Run:
    """Kill a replica in one step, and let another one take over."""
    draw = random.Random(f"{stop}")
    with DrillWorld(site, "killed", 100 * stop.seed + stop.step) as drill:
        _stopped(drill, stop.step, signal.SIGKILL, draw)
        died = time.monotonic()
        successor = drill.start()
        drill.send(EVENTS // 3, draw.randrange(1 << 30))
        drill.wait_applied()
        again_s = max(0.0, time.monotonic() - died - drill.session_s)
        run = drill.finish(figures={"working_again_s": round(again_s, 1)})
        repairs = {"num_view_repairs": num_repairs([successor])}
        return Run(run.findings, {**run.figures, **repairs}, (*run.problems, *late(str(stop), again_s)))


def late(what: str, again_s: float) -> tuple[str, ...]:
    """Return the problem that it took too long until it worked again, if it did."""
    return (f"{what}: working again only after {again_s:.1f} s",) if again_s > WORKING_WITHIN_S else ()


def _stopped(drill: DrillWorld, step: int, by: signal.Signals, draw: random.Random) -> Replica:
    """Return a replica that has stopped in a step, with something under way in it.

    One that takes over has something to take over from another one.
    """
    drill.send(EVENTS, draw.randrange(1 << 30))
    if step in set(TakeOverStep):
        before = drill.start(StopsAt(ViewStep.UPSERTED, draw.randint(2, 6), signal.SIGKILL))
        eventually(before.is_stopped, WITHIN_S, "the first replica's death")
        drill.send(EVENTS // 3, draw.randrange(1 << 30))
        if step == TakeOverStep.RESTORE:
            shutil.rmtree(drill.world.place.folder)
    stops = StopsAt(step, _count(step, draw), by)
    replica = drill.start(stops)
    deadline = time.monotonic() + WITHIN_S
    while not replica.is_stopped():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no replica came to the step: {stops.name()}")
        drill.send(5, draw.randrange(1 << 30))
        time.sleep(0.2)
    return replica


def _count(step: int, draw: random.Random) -> int:
    """Return the how manieth time a process stops in a step, so that something is under way in it."""
    if step in set(TakeOverStep):
        return 1
    if step in {ViewStep.STORE_POSITION, ViewStep.STORED_POSITION}:
        return draw.randint(1, 2)
    return draw.randint(10, 14) if step == UpdateStep.POLL else draw.randint(2, 5)


def killed_at_random(site: Site) -> list[Run]:
    """Kill one of two replicas with -9 at random moments under load, and start another one in its place."""
    kills = 25 if site.full else 4
    seeds = [site.seed + number for number in range(4 if site.full else 2)]
    return site.each(lambda seed: _killed_at_random(site, seed, kills), seeds)


def _killed_at_random(site: Site, seed: int, kills: int) -> Run:
    draw = random.Random(seed)
    with DrillWorld(site, "killed-at-random", seed, partitions=4) as drill:
        replicas = [drill.start(), drill.start()]
        again_s = 0.0
        for _ in range(kills):
            drill.send_for(draw.uniform(2, 8), draw)
            victim = draw.randrange(len(replicas))
            replicas[victim].send(signal.SIGKILL)
            died = time.monotonic()
            replicas[victim] = drill.start()
            drill.send(50, draw.randrange(1 << 30))
            drill.wait_applied()
            again_s = max(again_s, time.monotonic() - died - drill.session_s)
        run = drill.finish(figures={"working_again_s": round(again_s, 1), "num_kills": kills})
        repairs = {"num_view_repairs": num_repairs(replicas)}
        return Run(run.findings, {**run.figures, **repairs}, (*run.problems, *late(f"seed {seed}", again_s)))


def frozen_in_each_step(site: Site) -> list[Run]:
    """Freeze a replica in each step and inside an upsert until another one has its partitions, then wake it."""
    steps = [*(int(step) for step in STEPS), INSIDE_UPSERT]
    stops = [Stop(step, site.seed + seed) for seed in range(20 if site.full else 1) for step in steps]
    return site.each(lambda stop: frozen(site, stop), stops)


def frozen(site: Site, stop: Stop) -> Run:
    """Freeze a replica in one step, and wake it when another one has settled in its place."""
    draw = random.Random(f"{stop}")
    with DrillWorld(site, "frozen", 100 * stop.seed + stop.step) as drill:
        sleeper = _stopped(drill, stop.step, signal.SIGSTOP, draw)
        successor = drill.start()
        drill.send(EVENTS // 3, draw.randrange(1 << 30))
        drill.wait_applied()
        time.sleep(VIEWS.settle_s)  # past what the take-over alone would mend
        return _woken(drill, sleeper, [successor], draw)


def _woken(drill: DrillWorld, sleeper: Replica, others: list[Replica], draw: random.Random) -> Run:
    """Wake a replica whose partitions others have by now, and wait until all is as it must be, and stays so."""
    sleeper.send(signal.SIGCONT)
    woken = time.monotonic()
    drill.send(EVENTS // 3, draw.randrange(1 << 30))
    first = drill.finish()
    settled_s = time.monotonic() - woken
    time.sleep(1)  # what the woken one still does comes late
    again = drill.finish()
    figures = {"settled_s": round(settled_s, 1), "num_view_repairs": num_repairs([sleeper, *others])}
    return Run(first.findings.plus(again.findings), figures, (*first.problems, *again.problems))


def frozen_at_random(site: Site) -> list[Run]:
    """Freeze one of two replicas under load at random moments, most of them between polls, past its session."""
    freezes = 20 if site.full else 2
    seeds = [site.seed + number for number in range(4 if site.full else 2)]
    return site.each(lambda seed: _frozen_at_random(site, seed, freezes), seeds)


def _frozen_at_random(site: Site, seed: int, freezes: int) -> Run:
    draw = random.Random(seed)
    run, settled_s = Run(), 0.0
    with DrillWorld(site, "frozen-at-random", seed, partitions=4) as drill:
        replicas = [drill.start(), drill.start()]
        for _ in range(freezes):
            drill.send_for(draw.uniform(1, 3), draw)
            sleeper = draw.choice(replicas)
            sleeper.send(signal.SIGSTOP)
            drill.send_for(drill.session_s + draw.uniform(2, 4), draw)
            drill.wait_applied()
            others = [each for each in replicas if each is not sleeper]
            woken = _woken(drill, sleeper, others, draw)
            settled_s = max(float(woken.figures["settled_s"]), settled_s)
            figures = {**woken.figures, "settled_s": settled_s, "num_freezes": freezes}
            run = Run(run.findings.plus(woken.findings), figures, (*run.problems, *woken.problems))
    return run
