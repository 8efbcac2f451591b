"""Replicas that come and go, and a topic that is made anew behind them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial

from kafka import KafkaAdminClient

from mind_dist.log.kafka import ensure_event_topics, num_partitions
from mind_dist.log.kafka_topics import ensure_state_topic
from tests import findings
from tests.drills.load import Load
from tests.drills.outages import REPOSITORY
from tests.drills.replica import Replica
from tests.drills.report import Run
from tests.drills.site import Site, eventually
from tests.drills.worlds import USERS, DrillWorld, num_repairs, rows_in_time
from tests.findings import NOTHING, Findings
from tests.replicas import kafka_arguments
from tests.state_worlds import KeyValue, in_order, mixed_log, told_by
from tests.view_oracle import rows_of

EVERY_S = 5.0
MOST = 4


def replicas_come_and_go(site: Site) -> list[Run]:
    """Add or remove a replica every 5 s under load, some of them with kill -9."""
    rounds = 24 if site.full else 8
    draw, changes = random.Random(site.seed), 0
    with DrillWorld(site, "come-and-go", site.seed, partitions=4) as drill:
        replicas = [drill.start()]
        with Load(drill, 100, site.seed) as load:
            for _ in range(rounds):
                time.sleep(EVERY_S)
                changes += 1
                if len(replicas) == 1 or (len(replicas) < MOST and draw.random() < 0.5):
                    replicas.append(drill.start())
                else:
                    leaving = replicas.pop(draw.randrange(len(replicas)))
                    leaving.end() if draw.random() < 0.7 else leaving.send(signal.SIGKILL)
        run = drill.finish()
        lost = load.num_lost(drill.world.events())
        figures = {"num_changes": changes, "num_events": load.num_sent}
        return [Run(run.findings.plus(Findings(lost=lost)), figures, run.problems)]


def partitions_added(site: Site) -> list[Run]:
    """Add partitions to the events, 4 → 8, under load: each user's order stays, though events come to other partitions."""
    draw, sent = random.Random(site.seed), list[KeyValue]()
    with DrillWorld(site, "partitions-added", site.seed, partitions=4) as drill:

        def send_for(seconds: float) -> None:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                fresh = mixed_log(20, USERS, draw.randrange(1 << 30), drill.later(20))
                drill.world.send(fresh)
                sent.extend(fresh)
                time.sleep(0.2)

        replicas = [drill.start(), drill.start()]
        send_for(10)
        with closing(KafkaAdminClient(bootstrap_servers=drill.world.place.kafka)) as admin:
            admin.create_partitions({drill.world.place.topic: 8})
        eventually(lambda: num_partitions(drill.world.place.kafka, drill.world.place.topic) == 8, 30, "8 partitions")
        drill.world.partitions = 8
        send_for(20)
        drill.wait_applied()
        oracle, world = told_by(in_order(sent), drill.max_history), drill.world
        states = world.states()
        num_letters, num_poison = drill.num_dead_letters(), len(oracle.poison)
        found = findings.in_states(states, oracle)
        found = found.plus(Findings(max(0, num_poison - num_letters), max(0, num_letters - num_poison)))
        if found == NOTHING:
            found = rows_in_time(world, rows_of(oracle, states, world.encoder))
        stopped = [f"partition {p}: {why}" for each in replicas for p, why in _stopped(each).items()]
        return [Run(found, {"num_events": len(sent), "num_view_repairs": num_repairs(replicas)}, tuple(stopped))]


def topic_made_anew(site: Site) -> list[Run]:
    """Delete the topic of the events, or of the states, and make it anew, with replicas away and at work: refused by name, until an operator lets it go on."""
    kinds = [(of_states, at_work) for of_states in (False, True) for at_work in (False, True)]
    return site.each(lambda kind: _made_anew(site, *kind), kinds)


def _made_anew(site: Site, of_states: bool, at_work: bool) -> Run:
    when = f"{'states' if of_states else 'events'}, {'at work' if at_work else 'away'}"
    with DrillWorld(site, "made-anew", site.seed + 2 * of_states + at_work) as drill:
        # of events that are read again poison is set aside again: where they are to be, there is none
        send = partial(_send_sound, drill) if of_states else drill.send
        send(300, site.seed)
        replica = drill.start()
        before = drill.finish()
        if not at_work:
            replica.end()
        states = [] if of_states else drill.world.states()
        topic = drill.world.config.states_topic if of_states else drill.world.place.topic
        drill.world.earlier = [] if of_states else drill.world.events()
        make_anew(drill, topic)
        send(900, site.seed + 1)  # more than before: the old positions are in the new topic, too
        replica = replica if at_work else drill.start()
        problems = []
        try:
            eventually(lambda: len(_stopped(replica)) == drill.world.partitions, 60, "the new topic is refused")
        except TimeoutError as error:
            problems.append(f"{when}: {error}")
        reasons = _stopped(replica).values()
        problems += [f"{when}: not by name: {reason}" for reason in reasons if topic not in reason]
        if len(drill.world.states()) != len(states) and not (of_states and at_work):  # it may have gone on for a moment
            problems.append(f"{when}: states were written unasked")
        if problems:
            return Run(before.findings, {}, (*before.problems, *problems))
        let_go_on(drill)
        run = drill.finish()
        return Run(before.findings.plus(run.findings), {}, (*before.problems, *run.problems, *problems))


def _send_sound(drill: DrillWorld, num_records: int, seed: int) -> None:
    drill.world.send(mixed_log(num_records, USERS, seed, drill.later(num_records), poison_share=0))


def _stopped(replica: Replica) -> Mapping[int, str]:
    found: Mapping[int, str] = replica.ask("status")["states"].get("stopped", {})
    return found


def make_anew(drill: DrillWorld, topic: str) -> None:
    """Delete the topic of the events or that of the states, and create it under the same name."""
    place = drill.world.place
    with closing(KafkaAdminClient(bootstrap_servers=place.kafka)) as admin:
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics(), 30, "the topic is gone")
    ensure_event_topics(place.kafka, drill.world.config, drill.world.partitions)
    ensure_state_topic(place.kafka, drill.world.config)


def let_go_on(drill: DrillWorld) -> None:
    """Do what the refusal tells an operator to do."""
    place = drill.world.place
    known = {"MIND_DIST_KAFKA": place.kafka, "MIND_DIST_MILVUS": place.milvus, "MIND_DIST_DEPLOYMENT": place.deployment}
    resets = [f"{partition}=oldest" for partition in range(drill.world.partitions)]
    settings = [*kafka_arguments(drill.world.config), "--kafka.group-prefix", drill.world.config.group_prefix]
    command = [sys.executable, "-m", "jobs.partitions", "--reset", *resets, *settings]
    subprocess.run(command, env={**os.environ, **known}, cwd=REPOSITORY, check=True, timeout=120)
