"""Many new users at once, and users who are to be forgotten."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from kafka import KafkaProducer
from pyarrow import parquet as pq

from mind_dist.config import PublishConfig, ViewsConfig
from mind_dist.index.vector_store import UserRow
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.kafka import ensure_topics
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.publishing import publish
from mind_dist.states.local_store import LocalStore
from mind_dist.states.partition import EVENTS_LOG_KEY
from mind_dist.training.collectives import SingleRank
from mind_dist.training.open_run import open_run
from mind_dist.training.settings import TrainSettings
from tests.drills.publishing import another_version, caught_up, settled_rows
from tests.drills.report import Figures, Run
from tests.drills.site import Site, eventually
from tests.drills.worlds import USERS, DrillWorld
from tests.state_worlds import KeyValue
from tests.toy_training import FROM_LOG, MODEL, write_dataset

NEW_PER_S = 2000
MAX_BEHIND_S = 2.0
"""So far behind the last event of a new user its row may be, where the rate is held."""
FORGOTTEN = (3, 5)
_TIME_MS = 1_500_000_000_000


def new_users(site: Site) -> list[Run]:
    """Send the first events of 2,000 new users a second to an empty store: each has its row when the last one has come."""
    seconds = 60 if site.full else 10
    with DrillWorld(site, "new-users", site.seed, partitions=4, views=ViewsConfig(), max_poll_records=500) as drill:
        replica = drill.start()
        eventually(replica.owned, 60, "the replica owns partitions")
        started = time.monotonic()
        send_new_users(drill, seconds * NEW_PER_S)
        sent = time.monotonic()
        drill.wait_applied()
        eventually(lambda: not any(view["num_behind"] for view in replica.ask("status")["views"]), 600, "all rows")
        done = time.monotonic()
        run = drill.finish()
        figures: Figures = {
            "num_users": seconds * NEW_PER_S,
            "sent_per_s": round(seconds * NEW_PER_S / (sent - started)),
            "rows_per_s": round(seconds * NEW_PER_S / (done - started)),
            "behind_s": round(done - sent, 1),
        }
        behind = f"not held: the rows came {done - sent:.1f} s behind the events"
        problems = (behind,) if done - sent > MAX_BEHIND_S else ()
        return [Run(run.findings, figures, (*run.problems, *problems))]


def send_new_users(drill: DrillWorld, count: int) -> None:
    """Write one event of each of so many new users, at the pace."""
    place = drill.world.place
    with closing(KafkaProducer(bootstrap_servers=place.kafka, acks="all", linger_ms=5)) as producer:
        started = time.monotonic()
        for user in range(count):
            ahead_s = started + user / NEW_PER_S - time.monotonic()
            if ahead_s > 0.02:
                time.sleep(ahead_s)
            key, event = encode_key(user), encode_event(user, user % 60, _TIME_MS + user)
            partition = home_partition(key_hash(key), drill.world.partitions)
            producer.send(place.topic, event, key, partition=partition)
        producer.flush(timeout=60)


def forgotten(site: Site) -> list[Run]:
    """Forget users of whom there are states, rows of three versions, one of them released from memory, and histories of a run that trains on them: they are nowhere any more."""
    with DrillWorld(site, "forgotten", site.seed) as drill:
        drill.send(300, site.seed)
        drill.world.send([KeyValue(encode_key(user), encode_event(user, user, _TIME_MS)) for user in range(USERS)])
        replica = drill.start()
        drill.finish()
        versions = [another_version(drill, site.seed + number) for number in (1, 2)]
        for version in versions:
            publish(drill.world.store, *version, PublishConfig(keep=2), catch_up=caught_up(drill))
        training = _Training(drill)
        training.go_on()
        in_training = sum(training.knows(user) for user in FORGOTTEN)
        names = [info.model_version for info in drill.world.store.versions()]
        before = {name: _rows(drill, name) for name in names}
        drill.world.send([KeyValue(encode_key(user), None) for user in FORGOTTEN])
        drill.wait_applied()
        found = settled_rows(drill, versions[-1][0])
        replica.end()
        for save in range(training.num_to_keep):
            drill.world.send(
                [KeyValue(encode_key(0), encode_event(0, each, _TIME_MS + 100 * save + each)) for each in range(9)]
            )
            training.go_on()
        left = [where for user in FORGOTTEN for where in _where(drill, user, before)]
        left += [f"user {user} is in a checkpoint" for user in FORGOTTEN if training.knows(user)]
        there = sum(user in rows for rows in before.values() for user in FORGOTTEN)
        figures: Figures = {
            "num_versions": len(names),
            "num_rows_before": there,
            "num_histories_before": in_training,
            "num_checkpoints": training.num_saved,
        }
        problems = [] if there and in_training else ["nothing was there to be forgotten"]
        return [Run(replace(found, repeated=found.repeated + len(left)), figures, (*problems, *left))]


class _Training:
    """A run on the same events, which saves each time that it goes on."""

    def __init__(self, drill: DrillWorld) -> None:
        letters = f"{drill.world.place.topic}-of-training"
        ensure_topics(drill.world.place.kafka, {letters: 1})
        self._bootstrap = drill.world.place.kafka
        self._settings = TrainSettings(
            dataset=write_dataset(drill.folder / "dataset"),
            storage=str(drill.folder / "runs"),
            source="kafka",
            model=MODEL,
            training=FROM_LOG,
            kafka=replace(drill.group, dead_letter_topic=letters),
        )
        self.num_to_keep = self._settings.num_to_keep
        self.num_saved = 0

    def go_on(self) -> None:
        """Train what has come, and save."""
        versions = self._settings.versions
        saved = versions.newest_whole().version
        run = open_run(self._settings, self._bootstrap, saved, SingleRank(), torch.device("cpu"))
        for _ in run.steps():
            pass
        run.save(versions.place(run.step))
        versions.keep(run.step, self.num_to_keep)
        run.examples.close()
        self.num_saved += 1

    def knows(self, user: int) -> bool:
        """Tell whether any checkpoint that is there has a user's history, searched file by file."""
        files = [*Path(self._settings.storage).rglob("history/*.parquet")]
        return any(user in pq.read_table(file)["user_id"].to_pylist() for file in files)


def _rows(drill: DrillWorld, version: str) -> dict[int, UserRow]:
    drill.world.store.load_version(version)
    return {row.user_key: row for row in drill.world.store.scan_users(version)}


def _where(drill: DrillWorld, user: int, before: dict[str, dict[int, UserRow]]) -> list[str]:
    """Return all places in which a user is still found, searched by what the user's interests were as well."""
    found = []
    newest = {int(record.key or b""): record for record in drill.world.states() if record.key != EVENTS_LOG_KEY}
    if newest[user].value:
        found.append(f"user {user} is in the topic of states")
    for store in _local_stores(drill):
        with closing(store):
            [state] = store.get([user])
            if state is not None and state.value:
                found.append(f"user {user} is in a local store")
    index = drill.world.store
    for version, rows in before.items():
        index.load_version(version)
        interests = [*rows[user].interests] if user in rows else []
        hits = [hits for each in interests for hits in index.search_users(version, each, USERS)]
        near = {int(key) for each in hits for key in each.keys.tolist()}
        if user in near or user in _rows(drill, version) or index.get_users(version, [user], strong=True):
            found.append(f"user {user} is in {version}")
    return found


def _local_stores(drill: DrillWorld) -> list[LocalStore]:
    folder = Path(drill.world.place.folder) / drill.world.config.states_topic
    identity = drill.states_identity()
    return [LocalStore(path, identity) for path in sorted(folder.iterdir())]
