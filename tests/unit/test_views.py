"""Rows behind states: whatever goes wrong, they become what the states give, each user written once."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from mind_dist.config import ModelConfig, StatesConfig, ViewsConfig
from mind_dist.dataset.parquet import FeatureInfo
from mind_dist.dataset.profiles import profile_keys
from mind_dist.encoder import UserInterests
from mind_dist.errors import ServiceUnavailable
from mind_dist.index.vector_store import UserRow
from mind_dist.keys import behavior_key, feature_key
from mind_dist.records import BehaviorSequence
from mind_dist.states.record import UserState
from mind_dist.views.positions import InMemoryViewPositions
from mind_dist.views.reading import Reading
from tests.toy_serving import (
    INFO,
    VERSION,
    Clock,
    Run,
    ToyEncoder,
    UnsteadyStore,
    click,
    contents,
    forget,
    log_of,
    toy_config,
    toy_manifest,
    toy_store,
)

VIEWS = ViewsConfig(batch_size=3, store_s=0, look_s=0, audit_rows=100, audit_after_s=0)


def events(num_users: int, rounds: int = 1) -> list[tuple[bytes, bytes | None]]:
    return [click(user, (user + 3 * turn) % 20, 100 + turn) for turn in range(rounds) for user in range(num_users)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(log_of(events(10), 2), tmp_path, toy_store(UnsteadyStore()), config=toy_config(views=VIEWS))


def unsteady(run: Run) -> UnsteadyStore:
    assert isinstance(run.store, UnsteadyStore)
    return run.store


class Counting(UnsteadyStore):
    """Counts how often each user is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        super().upsert_users(model_version, rows)
        self.written += [row.user_key for row in rows]


def undisturbed(run: Run, folder: Path) -> dict[int, tuple[object, ...]]:
    """Return the rows that all events give where nothing goes wrong."""
    calm = Run(run.events, folder, config=run.config, encoder=run.encoder)
    updater = calm.updater()
    calm.config = dataclasses.replace(run.config, kafka=dataclasses.replace(run.config.kafka, group_prefix="calm-"))
    updater.close()
    updater = calm.updater()
    calm.drain(updater)
    calm.write(calm.view())
    updater.close()
    return calm.rows()


def test_rows_follow_the_states_and_forgotten_users_go(run: Run, tmp_path: Path) -> None:
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    assert sorted(run.rows()) == list(range(10))
    run.events.append(*forget(4), 0)
    run.events.append(*click(5, 9, 300), 1)
    run.drain(updater)
    run.write(view)
    assert 4 not in run.rows()
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


def test_a_forgotten_user_is_gone_from_versions_that_nobody_follows_too(run: Run) -> None:
    run.store.create_version(dataclasses.replace(INFO, model_version="kept"))
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    kept = [dataclasses.replace(row, model_version="kept") for row in run.store.scan_users(VERSION)]
    run.store.upsert_users("kept", kept)
    run.events.append(*forget(4), 0)
    run.drain(updater)
    run.write(view)
    for version in (VERSION, "kept"):
        assert sorted(row.user_key for row in run.store.scan_users(version)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    updater.close()


@pytest.mark.parametrize("outcome", ["before", "half", "after"])
def test_a_write_that_fails_is_repeated_from_where_it_began(run: Run, tmp_path: Path, outcome: str) -> None:
    unsteady(run)._outcomes = iter(["", outcome, "", outcome])
    updater, view = run.updater(), run.view()
    run.drain(updater)
    failures = 0
    while True:
        try:
            run.write(view)
            break
        except ServiceUnavailable:
            failures += 1
    assert failures == 2
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


def test_while_the_index_is_away_states_go_on_and_then_each_user_is_written_once(tmp_path: Path) -> None:
    store = Counting()
    run = Run(log_of(events(10, rounds=5), 2), tmp_path, toy_store(store), config=toy_config(views=VIEWS))
    updater, view = run.updater(), run.view()
    store.away = True
    while run.events.stored(run.config.kafka.updaters_group, [0, 1]) != {0: 25, 1: 25}:
        updater.step(0)
        with (
            pytest.raises(ServiceUnavailable)
            if any(list(each.user_keys()) for each in run.shared.owned().stores.values())
            else nullcontext()
        ):
            view.step(*run.shared.owned())
    store.away = False
    run.write(view)
    assert sorted(store.written) == list(range(10))
    updater.close()


def test_a_new_view_is_filled_from_the_states_alone_and_goes_on_after_a_restart(run: Run) -> None:
    updater = run.updater()
    run.drain(updater)
    view = run.view()
    view.step(*run.shared.owned())
    view.close()
    written = len(run.rows())
    assert 0 < written < 10
    run.store.delete_users(VERSION, list(run.rows()))  # what comes now was not written before
    run.clock.now += 1000
    run.write(run.view())
    assert len(run.rows()) == 10 - written
    updater.close()


def test_a_view_that_somebody_puts_back_is_written_again(run: Run, tmp_path: Path) -> None:
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    run.store.delete_users(VERSION, list(range(10)))
    InMemoryViewPositions(run.states, VERSION).store({0: 0, 1: 0}, {})
    run.write(view)
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


def test_what_an_owner_before_writes_late_is_overwritten_when_its_calls_have_ended(run: Run, tmp_path: Path) -> None:
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    old = run.store.get_users(VERSION, [4, 5], strong=True)
    for user in (4, 5):
        run.events.append(*click(user, 9, 300), user % 2)
    run.drain(updater)
    run.write(view)
    run.store.upsert_users(VERSION, list(old.values()))
    run.clock.now += run.config.views.settle_s + 1
    run.write(view)
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


def test_a_successor_knows_what_its_predecessor_had_still_to_write_once_more(run: Run, tmp_path: Path) -> None:
    updater, first = run.updater(), run.view()
    run.drain(updater)
    run.write(first)
    first.close()
    old = run.store.get_users(VERSION, [4], strong=True)
    run.events.append(*click(4, 9, 300), 0)
    run.drain(updater)
    second = run.view()
    run.write(second)
    run.store.upsert_users(VERSION, list(old.values()))
    run.clock.now += run.config.views.settle_s + 1
    run.write(second)
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


def test_nothing_is_written_while_the_partitions_may_be_another_owners(run: Run) -> None:
    ours = False
    updater, view = run.updater(), run.view(may_write=lambda: ours)
    run.drain(updater)
    view.step(*run.shared.owned())
    assert run.rows() == {}
    ours = True
    run.write(view)
    assert len(run.rows()) == 10
    updater.close()


def test_an_audit_mends_rows_that_are_not_of_their_states(run: Run, tmp_path: Path) -> None:
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    assert view.audit(run.shared.owned().stores) == 0
    old = dataclasses.replace(run.store.get_users(VERSION, [4], strong=True)[4], state_offset=-1)
    run.store.upsert_users(VERSION, [old])
    run.store.delete_users(VERSION, [5])
    found = sum(view.audit(run.shared.owned().stores) for _ in range(50))
    assert found == 2
    assert run.metrics.values["mind_dist_view_repairs"] == 2
    assert run.rows() == undisturbed(run, tmp_path / "calm")
    updater.close()


class Slow(UnsteadyStore):
    """Shows what was written a second ago, unless asked strongly, and counts how often it is."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._written: dict[int, float] = {}
        self.num_strong = 0

    def upsert_users(self, model_version: str, rows: Sequence[UserRow]) -> None:
        super().upsert_users(model_version, rows)
        self._written |= dict.fromkeys([row.user_key for row in rows], self.clock())

    def get_users(self, model_version: str, user_keys: Sequence[int], *, strong: bool) -> dict[int, UserRow]:
        self.num_strong += strong
        found = super().get_users(model_version, user_keys, strong=strong)
        now = self.clock()
        return {key: row for key, row in found.items() if strong or now - self._written.get(key, 0) >= 1}


def test_an_audit_looks_at_no_row_that_reads_do_not_show_yet(tmp_path: Path) -> None:
    store = Slow()
    config = toy_config(views=dataclasses.replace(VIEWS, audit_after_s=2))
    run = Run(log_of(events(10), 2), tmp_path, toy_store(store), config=config)
    run.clock = store.clock
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    for _ in range(20):
        assert view.audit(run.shared.owned().stores) == 0
        run.clock.now += 0.25
    assert store.num_strong == 0
    store.delete_users(VERSION, [5])
    assert sum(view.audit(run.shared.owned().stores) for _ in range(50)) == 1
    updater.close()


@dataclasses.dataclass
class Picky(ToyEncoder):
    """Cannot encode one user, and gives another none that is finite."""

    def encode(self, sequences: Sequence[BehaviorSequence]) -> list[UserInterests]:
        if any(sequence.user_key == 4 for sequence in sequences):
            raise ValueError("no such shape")
        found = super().encode(sequences)
        return [
            UserInterests(np.full_like(each.vectors, np.nan), each.weights) if sequence.user_key == 6 else each
            for sequence, each in zip(sequences, found, strict=True)
        ]


def test_a_user_that_cannot_be_encoded_holds_up_nobody(run: Run) -> None:
    run.encoder = Picky()
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    assert sorted(run.rows()) == [0, 1, 2, 3, 5, 7, 8, 9]
    assert sorted((letter.key, why) for letter, why in run.not_encoded.letters) == [
        (b"4", f"{VERSION}: ValueError: no such shape"),
        (b"6", f"{VERSION}: its interests are not finite"),
    ]
    assert run.metrics.values["mind_dist_users_not_encoded"] == 2
    updater.close()


def reading(
    event_types: tuple[str, ...], features: tuple[str, ...] = (), profile: tuple[FeatureInfo, ...] = ()
) -> Reading:
    manifest = toy_manifest(*event_types)
    manifest.config["profile_features"] = [dataclasses.asdict(info) for info in profile]
    config = ModelConfig(dim=4, behavior_features=features, num_profile_features=len(profile))
    return Reading.of(manifest, config, 2, ("event_type", "device"))


def test_a_version_reads_the_newest_of_its_own_types_and_features() -> None:
    click_key, buy, phone = (
        behavior_key(*each) for each in (("event_type", "click"), ("event_type", "buy"), ("device", "phone"))
    )
    kinds = np.array([[buy, phone], [click_key, 0], [buy, 0], [buy, 7]], dtype=np.int64)
    state = UserState(BehaviorSequence(7, np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4]), behavior_keys=kinds))
    read = reading(("buy",), ("device",)).sequence(state)
    assert (read.item_keys.tolist(), read.behavior_keys.tolist()) == ([3, 4], [[0], [7]])
    assert reading((), ()).sequence(state).item_keys.tolist() == [3, 4]
    assert reading((), ("page",)).unkept == ["page"]
    assert reading((), ("page",)).sequence(state).behavior_keys.tolist() == [[0], [0]]


def test_raw_profiles_become_the_keys_of_the_versions_own_features() -> None:
    infos = (FeatureInfo("age", "buckets", (18.0, 30.0)), FeatureInfo("city"))
    assert profile_keys(infos, {"age": 20, "city": "Ulm"}).tolist() == [
        feature_key("age", 1),
        feature_key("city", "Ulm"),
    ]
    assert profile_keys(infos, {"age": "old", "city": None}).tolist() == [0, 0]
    assert profile_keys(infos, {"age": True, "city": 7}).tolist() == [0, feature_key("city", "7")]


def test_histories_kept_are_longer_than_what_a_version_reads(tmp_path: Path) -> None:
    config = toy_config(views=VIEWS, states=StatesConfig(max_history=50))
    run = Run(log_of(events(1, rounds=20)), tmp_path, config=config)
    updater, view = run.updater(), run.view()
    run.drain(updater)
    run.write(view)
    [row] = run.store.scan_users(VERSION)
    assert len(row.behaviors) == run.encoder.max_behaviors
    assert contents(run.store)
    updater.close()
