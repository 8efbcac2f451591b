"""A topic with all that real ones have, and a version whose rows are made of it: on a real broker and a real Milvus."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from mind_dist.config import Addresses, MilvusConfig, ServingConfig, StatesConfig, ViewsConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.milvus_schema import Names
from mind_dist.index.vector_store import VersionInfo
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.records import MAX_TIES, Record
from tests import findings
from tests.findings import Findings
from tests.kafka_logs import read_all, send
from tests.state_worlds import FEATURES, KeyValue, Oracle, told_by
from tests.states_process import MAX_HISTORY, kafka_config
from tests.versions import tiny_version
from tests.view_oracle import Rows, bits, expected_rows, rows_of
from tests.views_process import PARTITIONS, Place

VALUES = [("event_type", "click"), ("event_type", "buy")]


class World:
    """A deployment of its own: events, and one version.

    Attributes:
        place: Where it is.
        config: Its topics, as a job's settings have them.
        encoder: The version.
        store: The index.
        partitions: Of the events; `state_partitions` of the states.
        problems: What was wrong at the last look, for people.
        earlier: Events of a topic that was there before.
    """

    def __init__(
        self,
        kafka: str,
        milvus: str,
        folder: Path,
        seed: int,
        *,
        partitions: int = PARTITIONS,
        max_poll_records: int = 25,
    ) -> None:
        uri = tiny_version(folder / "version", seed=seed, features=FEATURES, values=VALUES)
        topic = f"world-{uuid.uuid4().hex}"
        self.place = Place(kafka, milvus, topic, uri, str(folder / "states"))
        self.config = dataclasses.replace(kafka_config(topic), max_poll_records=max_poll_records)
        self.partitions = self.state_partitions = partitions
        self.problems: list[str] = []
        self.earlier: list[Record] = []
        ensure_event_topics(kafka, self.config, partitions)
        self.encoder = InterestEncoder.load(uri)
        self.version = self.encoder.model_version
        self.store = MilvusVectorStore(milvus, MilvusConfig(index="FLAT"), deployment=self.place.deployment)
        self.store.create_version(self.info())

    def info(self, published_ms: int = 1) -> VersionInfo:
        """Return what the version is."""
        length = self.encoder.max_behaviors + MAX_TIES
        where = self.place.uri
        return VersionInfo(
            self.version, 8, 3, "cosine", where, length, published_ms=published_ms, behavior_features=FEATURES.behavior
        )

    @property
    def addresses(self) -> Addresses:
        """Where its services are."""
        return Addresses(kafka=self.place.kafka, milvus=self.place.milvus, deployment=self.place.deployment)

    def serving(self, views: ViewsConfig, max_history: int = MAX_HISTORY) -> ServingConfig:
        """Return the settings of its updaters."""
        states = StatesConfig(max_history=max_history, directory=self.place.folder)
        milvus = MilvusConfig(index="FLAT")
        return ServingConfig(kafka=self.config, milvus=milvus, states=states, views=views, version_poll_s=0.5)

    def send(self, log: Sequence[KeyValue]) -> None:
        """Write records, each where its key belongs."""
        send(self.place.kafka, self.place.topic, log, self.partitions)

    def events(self) -> list[Record]:
        """Return all committed events, with those of a topic of before that was made anew."""
        return self.earlier + read_all(self.place.kafka, self.config, self.partitions)

    def states(self) -> list[Record]:
        """Return all states."""
        of_states = dataclasses.replace(self.config, topic=self.config.states_topic)
        return read_all(self.place.kafka, of_states, self.state_partitions)

    def rows(self) -> Rows:
        """Return what is in the index."""
        return {row.user_key: bits(row) for row in self.store.scan_users(self.version)}

    def expected(self) -> Rows:
        """Return what must be there."""
        return expected_rows(self.events(), self.states(), self.encoder, MAX_HISTORY)

    def find(self, max_history: int = MAX_HISTORY) -> tuple[Findings, Rows]:
        """Compare states and dead letters with what the whole log says, and return what the rows must be.

        Rows are expected of right states alone.
        """
        found, oracle, states = self.find_in_states(max_history)
        return found, rows_of(oracle, states, self.encoder) if found == findings.NOTHING else {}

    def find_in_states(self, max_history: int = MAX_HISTORY) -> tuple[Findings, Oracle, list[Record]]:
        """Compare states and dead letters with what the whole log says, which is returned, too, with the states."""
        oracle, states = told_by(self.events(), max_history), self.states()
        letters = dead_letters(self.place.kafka, self.config.dead_letter_topic)
        found = findings.in_states(states, oracle).plus(findings.in_dead_letters(letters, oracle.poison))
        self.problems = [] if found == findings.NOTHING else findings.differing_users(states, oracle)
        if found != findings.NOTHING:
            wanted, there = Counter(oracle.poison), Counter(letters)
            self.problems.append(f"dead letters missing {dict(wanted - there)}, too many {dict(there - wanted)}")
        return found, oracle, states

    def find_in_rows(self, expected: Rows) -> Findings:
        """Compare the rows with what they must be."""
        return findings.in_rows(list(self.store.scan_users(self.version)), expected, self.encoder)

    def close(self) -> None:
        """Leave the index, with nothing of this deployment in it."""
        self.store.close()
        wipe(self.place.milvus, self.place.deployment)


def wipe(milvus: str, deployment: str) -> None:
    """Drop whatever a deployment has at a server, also what readers are on."""
    names = Names(deployment)
    with closing(MilvusClient(milvus, timeout=30, dedicated=True)) as client:
        for alias in (names.users_alias, names.items_alias, names.staged_alias):
            with suppress(MilvusException):
                client.drop_alias(alias)
        for collection in client.list_collections():
            if collection.startswith(f"{deployment}__"):
                client.drop_collection(collection)


def dead_letters(address: str, topic: str) -> list[findings.Place]:
    """Return where the records were that a topic of dead letters has, as their headers say."""
    settings = {"isolation_level": "read_committed", "enable_auto_commit": False, "auto_offset_reset": "earliest"}
    places = []
    with closing(KafkaConsumer(bootstrap_servers=address, **settings)) as consumer:
        of_topic = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(of_topic)
        ends = consumer.end_offsets(of_topic)
        while any(consumer.position(each) < end for each, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                headers = [dict(record.headers) for record in records]
                places += [(int(each["partition"]), int(each["offset"])) for each in headers]
    return places
