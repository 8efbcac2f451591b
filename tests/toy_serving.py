"""What serving tests share: a deterministic encoder without torch, event logs, stores that misbehave as servers do."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mind_dist.checkpoint import FORMAT_VERSION, Manifest
from mind_dist.config import KafkaConfig, ModelConfig, ServingConfig
from mind_dist.encoder import UserInterests
from mind_dist.errors import ServiceUnavailable
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow, VersionInfo
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.log.transactions import InMemoryTransactions
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import MAX_TIES, BehaviorSequence, Keys
from mind_dist.states.homes import Homes
from mind_dist.states.local_store import LocalStore
from mind_dist.states.ownership import Ownership
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater, UpdateStep
from mind_dist.views.positions import InMemoryViewPositions
from mind_dist.views.view import View

OnStep = Callable[[UpdateStep], None]

VERSION = "v00000001_0a1b2c3d"
DIM = 4
KNOWN_ITEMS = 20
"""Items 0 … 19 are known to the toy encoder."""


def toy_manifest(*event_types: str) -> Manifest:
    """Return a manifest of a version that takes these event types as behaviors, or all."""
    config = {"event_types": list(event_types)}
    return Manifest(FORMAT_VERSION, VERSION, 0, config, "int64", 1, 0, {}, {}, "toy", {})


@dataclass
class ToyEncoder:
    """Interests that are a fingerprint of the known history, its features and the profile, in place of a trained model."""

    max_behaviors: int = 5
    config: ModelConfig = field(default_factory=lambda: ModelConfig(dim=DIM, num_interests=2))
    manifest: Manifest = field(default_factory=toy_manifest)

    def knows(self, keys: Keys) -> NDArray[np.bool_]:
        return np.asarray((keys >= 0) & (keys < KNOWN_ITEMS))

    def encode(self, sequences: Sequence[BehaviorSequence]) -> list[UserInterests]:
        return [self._encode(sequence) for sequence in sequences]

    def _encode(self, sequence: BehaviorSequence) -> UserInterests:
        is_known = self.knows(sequence.item_keys)
        known = sequence.item_keys[is_known]
        count = min(2, len(known))
        kinds = sequence.behavior_keys[is_known] if sequence.behavior_keys.size else sequence.behavior_keys
        seed = hashlib.sha256(known.tobytes() + sequence.profile_keys.tobytes() + kinds.tobytes()).digest()
        numbers = np.frombuffer(seed, dtype=np.uint8)[: count * DIM].astype(np.float32)
        return UserInterests(numbers.reshape(count, DIM), np.full(count, 1 / max(1, count), dtype=np.float32))


INFO = VersionInfo(VERSION, DIM, 2, "inner_product", "toy", 5 + MAX_TIES)


def toy_store(store: InMemoryVectorStore | None = None) -> InMemoryVectorStore:
    store = store or InMemoryVectorStore()
    store.create_version(INFO)
    return store


def toy_config(**settings: Any) -> ServingConfig:
    config = ServingConfig(kafka=KafkaConfig(max_poison_fraction=1.0, max_poll_records=4))
    return dataclasses.replace(config, **settings)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Crash(BaseException):
    """The process dies here."""


class CrashAt:
    """Dies before a step of the n-th batch (0 is the first)."""

    def __init__(self, step: UpdateStep, batch: int) -> None:
        self._step = step
        self._left = batch

    def __call__(self, step: UpdateStep) -> None:
        if step is self._step:
            if self._left == 0:
                raise Crash
            self._left -= 1


def click(user: int, item: int, time: int, event_type: str = "click") -> tuple[bytes, bytes | None]:
    return encode_key(user), encode_event(user, item, time, event_type)


def forget(user: int) -> tuple[bytes, bytes | None]:
    return encode_key(user), None


POISON: tuple[bytes, bytes | None] = (b"1", b"{not json")


def log_of(entries: Iterable[tuple[bytes, bytes | None]], num_partitions: int = 1) -> InMemoryLog:
    """Return a log with each entry in its user's partition."""
    log = InMemoryLog(num_partitions)
    for key, value in entries:
        log.append(key, value, int(key) % num_partitions)
    return log


class UnsteadyStore(InMemoryVectorStore):
    """Fails the calls it is told to, before or after they took effect; or all of them while it is away."""

    def __init__(self, outcomes: Iterable[str] = ()) -> None:
        super().__init__()
        self._outcomes = iter(outcomes)
        self.away = False

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        outcome = next(self._outcomes, "")
        self._fail("before", outcome)
        super().upsert_users(model_version, rows[: len(rows) // 2] if outcome == "half" else rows)
        self._fail("after", outcome)
        self._fail("half", outcome)

    def delete_users(self, model_version: str, user_keys: Sequence[int]) -> None:
        outcome = next(self._outcomes, "")
        self._fail("before", outcome)
        super().delete_users(model_version, user_keys)
        self._fail("after", outcome)

    def _fail(self, when: str, outcome: str) -> None:
        if outcome == when or self.away:
            raise ServiceUnavailable("Milvus", "toy", 1.0)


class MovingSource(InMemorySource):
    """A group member whose partitions are moved by the test."""

    def __init__(self, log: InMemoryLog, group: str, max_records: int) -> None:
        super().__init__(log, group, max_records=max_records)
        self._mine: frozenset[int] | None = None

    def move(self, partitions: Iterable[int]) -> None:
        """Own these partitions from the next poll on."""
        self._mine = frozenset(partitions)
        self._log.evict(self._group)

    def _own(self, partitions: Iterable[int]) -> None:
        mine = getattr(self, "_mine", None)
        super()._own(partitions if mine is None else mine & set(partitions))


@dataclass
class Run:
    """Events, the log of states, an index, and the owners and views that come and go over them."""

    events: InMemoryLog
    folder: Path
    store: InMemoryVectorStore = field(default_factory=toy_store)
    metrics: InMemoryMetrics = field(default_factory=InMemoryMetrics)
    clock: Clock = field(default_factory=Clock)
    config: ServingConfig = field(default_factory=toy_config)
    encoder: ToyEncoder = field(default_factory=ToyEncoder)

    def __post_init__(self) -> None:
        self.states = InMemoryLog(self.events.num_partitions)
        self.dead_letters = InMemoryLog()
        self.not_encoded = InMemoryDeadLetters()
        self.shared = SharedStores(1e9, self.clock)

    def source(self) -> MovingSource:
        kafka = self.config.kafka
        return MovingSource(self.events, kafka.updaters_group, kafka.max_poll_records)

    def updater(
        self,
        on_step: OnStep = lambda _step: None,
        source: InMemorySource | None = None,
        *,
        may_take: Callable[[], bool] = lambda: True,
    ) -> StatesUpdater:
        """Return a new owner of all partitions, as a process that just started has it."""
        kafka = self.config.kafka
        topics = {
            kafka.topic: self.events,
            kafka.states_topic: self.states,
            kafka.dead_letter_topic: self.dead_letters,
        }
        transactions = InMemoryTransactions(self.events, topics)
        owned = Ownership(
            lambda: source or self.source(),
            transactions,
            lambda partition: InMemorySource(self.states, "", [partition]),
            lambda partition: LocalStore.in_free_slot(self.folder, partition, self.states.identity),
            events_log=str(self.events.identity),
            num_partitions=self.states.num_partitions,
            kafka=kafka,
            shared=self.shared,
        )
        return StatesUpdater(
            owned,
            transactions,
            Homes(self.states.num_partitions, lambda: self.events.num_partitions),
            "int64",
            config=self.config.states,
            kafka=kafka,
            shared=self.shared,
            on_step=on_step,
            may_take=may_take,
        )

    def view(self, **settings: Any) -> View:
        """Return a new view of the version, as a process that just started has it."""
        return View(
            self.encoder,
            self.store,
            InMemoryViewPositions(self.states, VERSION),
            self.not_encoded,
            self.config.states.kept_features,
            config=self.config.views,
            metrics=self.metrics,
            clock=self.clock,
            now_ms=lambda: int(self.clock.now * 1000),
            **settings,
        )

    def drain(self, updater: StatesUpdater) -> None:
        """Let an owner work until the group has come to the end of the events."""
        partitions = range(self.events.num_partitions)
        ends = {p: self.events.end(p) for p in partitions if self.events.end(p)}
        while True:
            report = updater.step(0)
            self.clock.now += 1
            stored = self.events.stored(self.config.kafka.updaters_group, partitions)
            is_restored = self.shared.owned().stores.keys() == updater.partitions.keys()
            if not report.num_records and is_restored and all(stored.get(p, 0) >= end for p, end in ends.items()):
                return

    def write(self, view: View) -> None:
        """Let a view work until nothing is left to write."""
        while view.step(*self.shared.owned()).num_users:
            pass

    def rows(self) -> dict[int, tuple[object, ...]]:
        return contents(self.store)


def contents(store: InMemoryVectorStore, version: str = VERSION) -> dict[int, tuple[object, ...]]:
    """Return every user's row to the last bit, but for when it was computed and where its state stands."""
    return {row.user_key: bits(row) for row in store.scan_users(version)}


def bits(row: UserRow) -> tuple[object, ...]:
    arrays = (row.interests, row.weights, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
    parts = [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]
    return (*parts, row.partition, row.model_version)
