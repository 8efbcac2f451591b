"""Versions that are published, and rolled back, while readers ask."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
from pymilvus import MilvusClient

from mind_dist.config import PublishConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import MindDistError, PublishError
from mind_dist.index.milvus_schema import Names
from mind_dist.index.vector_store import VersionInfo
from mind_dist.publishing import CatchUp, publish, rollback
from mind_dist.records import BehaviorSequence
from mind_dist.views.caught_up import CaughtUp
from tests import findings
from tests.drills.load import Load
from tests.drills.report import Figures, Run
from tests.drills.site import Site, eventually
from tests.drills.worlds import DrillWorld
from tests.findings import Findings
from tests.state_worlds import FEATURES
from tests.versions import tiny_version
from tests.view_oracle import rows_of
from tests.view_worlds import VALUES

REQUESTS_PER_S, READERS, EVERY_S, LIMIT = 50, 2, 5.0, 10
_TOLERANCE = 1e-4


def first_publish_fails(site: Site) -> list[Run]:
    """Fail the first publish of a version once its users are staged, and publish it again: all users have rows."""
    with DrillWorld(site, "first-publish", site.seed) as drill:
        drill.send(300, site.seed)
        drill.start()
        drill.finish()
        encoder, uri = another_version(drill, site.seed + 1)
        problems = []
        try:
            publish(drill.world.store, encoder, uri, catch_up=_fails_behind(caught_up(drill)))
        except PublishError:
            pass
        else:
            problems.append("a publish that failed reported that it had not")
        drill.send(100, site.seed + 1)
        publish(drill.world.store, encoder, uri, catch_up=caught_up(drill))
        drill.wait_applied()
        return [Run(settled_rows(drill, encoder), {}, tuple(problems))]


def another_version(drill: DrillWorld, seed: int) -> tuple[InterestEncoder, str]:
    """Make a version of the same kind with other parameters."""
    uri = tiny_version(drill.folder / f"version-{seed}", seed=1000 + seed, features=FEATURES, values=VALUES)
    return InterestEncoder.load(uri), uri


def caught_up(drill: DrillWorld) -> CatchUp:
    """Return what tells whether a version has the rows of all users."""
    return CaughtUp(drill.world.place.kafka, drill.group)


def _fails_behind(catch_up: CatchUp) -> CatchUp:
    def ask(info: VersionInfo) -> bool:
        if catch_up(info):
            raise PublishError("this publish is to fail")
        return False

    return ask


def settled_rows(drill: DrillWorld, encoder: InterestEncoder) -> Findings:
    """Return what differs in the rows of a version, once they had time to follow."""
    found, oracle, states = drill.world.find_in_states(drill.max_history)
    expected = rows_of(oracle, states, encoder)
    version = encoder.model_version
    started, in_rows = time.monotonic(), Findings(stale_rows=1)
    while in_rows != findings.NOTHING and time.monotonic() < started + 30:
        in_rows = findings.in_rows(list(drill.world.store.scan_users(version)), expected, encoder)
    return found.plus(in_rows)


@dataclass
class Answers:
    """What readers have seen."""

    num: int = 0
    mixed: int = 0
    torn: int = 0
    lost: int = 0
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def publish_and_roll_back(site: Site) -> list[Run]:
    """Publish and roll back every 5 s under load and 50 requests a second by pymilvus alone, as README shows them."""
    wanted = 10_000 if site.full else 2_000
    with DrillWorld(site, "publish", site.seed) as drill:
        drill.send(300, site.seed)
        drill.start()
        drill.finish()
        first = another_version(drill, site.seed + 1)
        publish(drill.world.store, *first, _SETTINGS, catch_up=caught_up(drill))
        second = another_version(drill, site.seed + 2)
        encoders = {encoder.model_version: encoder for encoder, _ in (first, second)}
        changes, problems = 0, []
        known = sorted(row.user_key for row in drill.world.store.scan_users(first[0].model_version))
        with Load(drill, 50, site.seed, forget=False) as load, reading(drill, encoders, known) as answers:
            while answers.num < wanted:
                started = time.monotonic()
                try:
                    if changes % 2:
                        rollback(drill.world.store, config=_SETTINGS, catch_up=caught_up(drill))
                    else:
                        publish(drill.world.store, *second, _SETTINGS, catch_up=caught_up(drill))
                    changes += 1
                except MindDistError as error:
                    problems.append(f"a publish or rollback failed: {error}")
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - started)))
        drill.wait_applied()
        active = encoders[str(drill.world.store.active_version())]
        found = settled_rows(drill, active)
        found = found.plus(Findings(lost=answers.lost, mixed=answers.mixed, torn=answers.torn))
        problems += answers.errors[:5]
        figures: Figures = {
            "num_answers": answers.num,
            "num_changes": changes,
            "num_errors": len(answers.errors),
            "num_events": load.num_sent,
        }
        return [Run(found, figures, tuple(problems))]


_SETTINGS = PublishConfig(keep=1)


@contextmanager
def reading(drill: DrillWorld, encoders: dict[str, InterestEncoder], users: list[int]) -> Iterator[Answers]:
    """Ask for candidates of users all the time, and check each answer by itself."""
    answers, ended = Answers(), threading.Event()

    names = Names(drill.world.place.deployment)

    def read(number: int) -> None:
        draw = random.Random(number)
        with closing(MilvusClient(drill.world.place.milvus, timeout=10, dedicated=True)) as client:
            due = time.monotonic()
            while not ended.is_set():
                due += READERS / REQUESTS_PER_S
                ended.wait(max(0.0, due - time.monotonic()))
                _ask(client, names, draw.choice(users), encoders, answers)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: answers.num, 30, "the first answer")
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _ask(
    client: MilvusClient,
    names: Names,
    user: int,
    encoders: dict[str, InterestEncoder],
    answers: Answers,
) -> None:
    """Ask as README shows it, and compare with what the user's row and the version that it names must give."""
    try:
        rows = client.get(names.users_alias, ids=[user], timeout=10)
        if not rows:
            rows = client.get(names.users_alias, ids=[user], timeout=10, consistency_level="Strong")
        if not rows:
            with answers.lock:
                answers.num, answers.lost = answers.num + 1, answers.lost + 1
            return
        row = rows[0]
        encoder = encoders[row["model_version"]]
        interests = np.float32(row["interests"]).reshape(-1, encoder.config.dim)[: row["num_interests"]]
        items = names.items_of(row["model_version"])
        settings = {"output_fields": ["item_id"], "search_params": {"params": {"ef": 256}}, "timeout": 10}
        hits = client.search(items, list(interests), limit=LIMIT, **settings) if len(interests) else []
    except Exception as error:  # noqa: BLE001 - whatever a reader meets is an error of ours
        with answers.lock:
            answers.num += 1
            answers.errors.append(f"{type(error).__name__}: {error}")
        return
    with answers.lock:
        answers.num += 1
        answers.torn += _is_torn(row, interests, encoder)
        answers.mixed += _is_mixed(hits, interests, encoder)


def _is_torn(row: dict[str, object], interests: np.ndarray, encoder: InterestEncoder) -> bool:
    names = ("behaviors", "timestamps_ms", "profile", "behavior_keys_0")
    behaviors, times, profile, kinds = (np.array(row[name], dtype=np.int64) for name in names)
    known = BehaviorSequence(int(str(row["user_id"])), behaviors, times, profile, kinds.reshape(-1, 1))
    [wanted] = encoder.encode([known])
    return wanted.vectors.tobytes() != interests.tobytes()


def _is_mixed(hits: list[list[dict[str, object]]], interests: np.ndarray, encoder: InterestEncoder) -> bool:
    """Tell whether items were scored by other vectors than those of the version."""
    place = {int(key): at for at, key in enumerate(encoder.item_keys)}
    for interest, found in zip(interests, hits, strict=False):
        for hit in found:
            entity = hit["entity"]
            assert isinstance(entity, dict)
            vector = encoder.item_vectors[place[int(entity["item_id"])]]
            score = float(vector @ interest) / max(1e-12, float(np.linalg.norm(vector) * np.linalg.norm(interest)))
            if abs(score - float(str(hit["distance"]))) > _TOLERANCE:
                return True
    return False
