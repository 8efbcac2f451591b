"""What serving tests share: a deterministic encoder without torch, event logs, stores that misbehave as servers do."""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mind_dist.checkpoint import FORMAT_VERSION, Manifest
from mind_dist.config import KafkaConfig, ModelConfig, ServingConfig
from mind_dist.encoder import UserInterests
from mind_dist.errors import ServiceUnavailable, StaleAssignment
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.vector_store import UserRow, VersionInfo
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.observability import InMemoryMetrics
from mind_dist.records import MAX_TIES, BehaviorSequence, Keys, Positions, Record
from mind_dist.serving.updater import UpdateStep, UserVectorUpdater

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
    config: ModelConfig = field(default_factory=lambda: ModelConfig(dim=DIM, num_interests=2, num_profile_features=2))
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


class StaleStore(InMemoryVectorStore):
    """Reads as Milvus serves them: bounded ones up to 10 s old, multi-key ones now and then without a row."""

    def __init__(self, seed: int, clock: Clock) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._clock = clock
        self._replaced: dict[int, list[tuple[float, UserRow | None]]] = {}

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        self._remember(model_version, [row.user_key for row in rows])
        super().upsert_users(model_version, rows)

    def delete_users(self, model_version: str, user_keys: Sequence[int]) -> None:
        self._remember(model_version, user_keys)
        super().delete_users(model_version, user_keys)

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        rows: dict[int, UserRow | None] = dict(super().get_users(model_version, user_keys, strong=True))
        for key in user_keys:
            old = [row for at, row in self._replaced.get(key, []) if at > self._clock.now - 10]
            if old and not strong:
                rows[key] = self._random.choice(old)
            if len(user_keys) > 1 and self._random.random() < 0.2:
                rows[key] = None
        return {key: row for key, row in rows.items() if row is not None}

    def get_users_singly(self, model_version: str, user_keys: Sequence[int]) -> dict[int, UserRow]:
        return super().get_users(model_version, user_keys, strong=True)

    def _remember(self, model_version: str, user_keys: Sequence[int]) -> None:
        before = super().get_users(model_version, user_keys, strong=True)
        for key in user_keys:
            self._replaced.setdefault(key, []).append((self._clock.now, before.get(key)))


class UnsteadyStore(InMemoryVectorStore):
    """Fails the calls it is told to, before or after they took effect."""

    def __init__(self, outcomes: Iterable[str]) -> None:
        super().__init__()
        self._outcomes = iter(outcomes)

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        self._fail("before", next(self._outcomes, ""))
        return super().get_users(model_version, user_keys, strong=strong)

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
        if outcome == when:
            raise ServiceUnavailable("Milvus", "toy", 1.0)


class MovingSource(InMemorySource):
    """A group member whose partitions are moved by the test; it commits only what it owns."""

    def __init__(self, log: InMemoryLog, group: str, partitions: Iterable[int], max_records: int) -> None:
        super().__init__(log, group, partitions, max_records)
        self._moved: frozenset[int] | None = None

    def move(self, partitions: Iterable[int]) -> None:
        """Own these partitions from the next poll on."""
        self._moved = frozenset(partitions)

    def poll(self, timeout_s: float) -> Sequence[Record]:
        if self._moved is not None:
            self._owned, self._moved = self._moved, None
            stored = self._log.stored(self._group, self._owned)
            self._position = {p: stored.get(p, 0) for p in sorted(self._owned)}
        return super().poll(timeout_s)

    def commit(self, positions: Positions) -> None:
        if not set(positions) <= (self._owned if self._moved is None else self._moved):
            raise StaleAssignment("partitions have moved on")
        super().commit(positions)


@dataclass
class Run:
    """One updater over a log, and all that it touches."""

    log: InMemoryLog
    store: InMemoryVectorStore = field(default_factory=toy_store)
    group: str = "toy"
    dead_letters: InMemoryDeadLetters = field(default_factory=InMemoryDeadLetters)
    metrics: InMemoryMetrics = field(default_factory=InMemoryMetrics)
    clock: Clock = field(default_factory=Clock)
    config: ServingConfig = field(default_factory=toy_config)
    encoder: ToyEncoder = field(default_factory=ToyEncoder)

    def updater(
        self, on_step: OnStep = lambda _step: None, partitions: Iterable[int] | None = None
    ) -> UserVectorUpdater:
        """Return a new updater, as a process that just started has it."""
        return self.updater_of(self.source(partitions), on_step)

    def source(self, partitions: Iterable[int] | None = None) -> MovingSource:
        owned = range(self.log.num_partitions) if partitions is None else partitions
        return MovingSource(self.log, self.group, owned, self.config.kafka.max_poll_records)

    def updater_of(self, source: InMemorySource, on_step: OnStep = lambda _step: None) -> UserVectorUpdater:
        return UserVectorUpdater(
            self.encoder,
            self.store,
            source,
            self.dead_letters,
            config=self.config,
            metrics=self.metrics,
            on_step=on_step,
            clock=self.clock,
            now_ms=lambda: int(self.clock.now * 1000),
        )

    def drain(self, updater: UserVectorUpdater) -> None:
        while updater.step(0).num_records:
            self.clock.now += 1

    def rows(self) -> dict[int, tuple[object, ...]]:
        return contents(self.store)


def contents(store: InMemoryVectorStore, version: str = VERSION) -> dict[int, tuple[object, ...]]:
    """Return every user's row to the last bit, but for when it was computed."""
    return {row.user_key: bits(row) for row in store.scan_users(version)}


def bits(row: UserRow) -> tuple[object, ...]:
    arrays = (row.interests, row.weights, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
    parts = [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]
    return (*parts, row.partition, row.next_offset, row.model_version)
