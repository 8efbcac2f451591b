import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mind_dist.config import KafkaConfig, StatesConfig
from mind_dist.errors import MindDistError, ServiceUnavailable, StaleAssignment, StateError
from mind_dist.keys import behavior_key
from mind_dist.log.codec import LONGEST_PROFILE_BYTES, encode_event, encode_history, encode_key
from mind_dist.log.identity import LogIdentity
from mind_dist.log.memory_log import InMemoryLog
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.log.source import InMemorySource
from mind_dist.log.transactions import InMemoryTransactions, Membership
from mind_dist.records import BehaviorSequence, Record
from mind_dist.states.homes import Homes
from mind_dist.states.local_store import LocalStore, StoredState
from mind_dist.states.note import Note
from mind_dist.states.ownership import Ownership
from mind_dist.states.partition import EVENTS_LOG_KEY, OwnedPartition
from mind_dist.states.record import UserState, decode_state, encode_state
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater, UpdateStep
from tests.state_worlds import FEATURES, KeyValue, assert_states, in_order, mixed_log, store_of, told_by

LOG = LogIdentity("c", "user-states", "1")
CONFIG = StatesConfig(max_history=10)
KAFKA = KafkaConfig(max_poison_fraction=0.5, poison_window=50)


def test_a_state_is_the_same_after_its_bytes() -> None:
    times = np.array([5, 5, 9, 1 << 50], dtype=np.int64)
    items = np.array([-(1 << 62), 7, 7, (1 << 62)], dtype=np.int64)
    kinds = np.array([[behavior_key("event_type", "buy")], [0], [3], [3]], dtype=np.int64)
    state = UserState(BehaviorSequence(7, items, times, behavior_keys=kinds), {"age": 30, "tags": ["a"]}, 12)
    read = decode_state(7, encode_state(state, ("event_type",)), ("device", "event_type"))
    np.testing.assert_array_equal(read.history.item_keys, items)
    np.testing.assert_array_equal(read.history.timestamps_ms, times)
    np.testing.assert_array_equal(read.history.behavior_keys, np.hstack([np.zeros((4, 1), np.int64), kinds]))
    assert (read.profile, read.next_offset) == (state.profile, 12)


def test_a_user_without_behaviors_has_a_state() -> None:
    state = UserState(BehaviorSequence(7, behavior_keys=np.empty((0, 1), dtype=np.int64)), {"age": 3})
    assert len(decode_state(7, encode_state(state, ("event_type",)), ("event_type",)).history) == 0


def test_bytes_that_are_damaged_or_of_a_newer_version_are_refused_by_name() -> None:
    value = encode_state(UserState(BehaviorSequence(7)), ())
    with pytest.raises(StateError, match="user 7: the state has format 9, this is 1"):
        decode_state(7, b"\x09" + value[1:], ())
    with pytest.raises(StateError, match="user 7: the state cannot be read"):
        decode_state(7, value[:-3], ())


def test_a_local_store_names_each_user_once_where_it_changed_last(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "p", LOG)
    store.put([StoredState(0, 5, b"a"), StoredState(1, -6, b"b"), StoredState(3, 5, b"c")], 5)
    store.put([StoredState(6, -6, b"")], 7)
    assert store.changed_from(0, 10) == [StoredState(3, 5, b"c"), StoredState(6, -6, b"")]
    assert store.changed_from(4, 10) == [StoredState(6, -6, b"")]
    assert store.changed_from(0, 1) == [StoredState(3, 5, b"c")]
    assert store.get([5, 9]) == [StoredState(3, 5, b"c"), None]
    assert list(store.user_keys()) == [-6, 5]
    assert store.position == 7
    store.close()
    again = LocalStore(tmp_path / "p", LOG)
    assert again.position == 7
    again.close()


def test_a_store_that_is_closed_while_another_thread_reads_says_so_by_our_error(tmp_path: Path) -> None:
    def read(store: LocalStore) -> None:
        with suppress(StateError):
            for _ in range(1_000):
                store.changed_from(0, 100)

    with ThreadPoolExecutor(2) as pool:
        for attempt in range(30):
            store = LocalStore(tmp_path / str(attempt), LOG)
            store.put([StoredState(user, user, b"a") for user in range(100)], 100)
            readers = [pool.submit(read, store) for _ in range(2)]
            time.sleep(0.005)
            store.close()
            for reader in readers:
                reader.result()


def test_a_folder_of_another_log_is_begun_anew(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "p", LOG)
    store.put([StoredState(0, 5, b"a")], 1)
    store.close()
    other = LocalStore(tmp_path / "p", LogIdentity("c", "user-states", "2"))
    assert (other.position, other.get([5])) == (0, [None])
    other.close()


@pytest.mark.parametrize(("hours", "lives_on"), [(1, True), (30, False)])
def test_who_was_forgotten_while_a_folder_was_away_does_not_live_on_in_it(
    tmp_path: Path, hours: int, lives_on: bool
) -> None:
    def opened(log: InMemoryLog, now_s: float) -> OwnedPartition:
        partition = OwnedPartition(0, LocalStore(tmp_path / "p", LOG, lambda: now_s))
        partition.begin_restore(lambda _partition: InMemorySource(log, "", [0]))
        while not partition.advance_restore(0):
            pass
        return partition

    before, compacted = InMemoryLog(identity=LOG), InMemoryLog(identity=LOG)
    for user in (b"5", b"6"):
        before.append(user, b"a")
    opened(before, 0.0).close()
    compacted.skip(0, 3)  # what there was of 5, and then the word that 5 is forgotten, are gone
    compacted.append(b"6", b"b")
    partition = opened(compacted, hours * 3600.0)
    assert partition.store is not None
    assert list(partition.store.user_keys()) == ([5, 6] if lives_on else [6])
    partition.close()


def test_a_folder_that_a_frozen_owner_holds_is_left_to_it(tmp_path: Path) -> None:
    frozen = LocalStore.in_free_slot(tmp_path, 0, LOG)
    frozen.put([StoredState(0, 5, b"a")], 1)
    mine = LocalStore.in_free_slot(tmp_path, 0, LOG)
    assert mine.position == 0
    mine.close()
    frozen.close()


class World:
    """Events, states and dead letters in this process, and updaters that come and go."""

    def __init__(self, folder: Path, num_partitions: int = 2) -> None:
        self.folder = folder
        self.events = InMemoryLog(num_partitions)
        self.states = InMemoryLog(num_partitions)
        self.letters = InMemoryLog()
        self.fail_at: Iterator[UpdateStep | None] = itertools.repeat(None)
        self.names = itertools.count()

    def append(self, sent: KeyValue) -> None:
        self.events.append(sent.key, sent.value, home_partition(key_hash(sent.key or b""), self.events.num_partitions))

    def updater(self, *, folder: str = "one", max_records: int = 20, shows_late: bool = False) -> StatesUpdater:
        topics = {
            KAFKA.topic: self.events,
            KAFKA.states_topic: self.states,
            KAFKA.dead_letter_topic: self.letters,
        }
        transactions = InMemoryTransactions(self.events, topics, shows_late=shows_late)
        shared = SharedStores(KAFKA.session_timeout_s)
        owned = Ownership(
            lambda: InMemorySource(self.events, KAFKA.updaters_group, max_records=max_records),
            transactions,
            lambda partition: InMemorySource(self.states, "", [partition]),
            lambda partition: LocalStore.in_free_slot(self.folder / folder, partition, self.states.identity),
            events_log=str(self.events.identity),
            num_partitions=self.states.num_partitions,
            kafka=KAFKA,
            shared=shared,
        )
        return StatesUpdater(
            owned,
            transactions,
            Homes(self.states.num_partitions, lambda: self.events.num_partitions),
            "int64",
            config=CONFIG,
            kafka=KAFKA,
            shared=shared,
            on_step=self._maybe_fail,
        )

    def _maybe_fail(self, step: UpdateStep) -> None:
        if step == next(self.fail_at):
            raise ServiceUnavailable("Kafka", "here", 1)

    def records(self) -> list[Record]:
        return [each for p in range(self.events.num_partitions) for each in self.events.read(p, 0, 1 << 30)]

    def run(self, updater: StatesUpdater) -> None:
        """Step until everything is stored."""
        while True:
            try:
                report = updater.step(0)
            except MindDistError:
                continue
            if not report.num_records and not any(updater.lag(0).values()):
                return

    def check(self, sent: Sequence[KeyValue] = ()) -> None:
        """Compare the log of states, and what it gives a new machine, with the oracle: of the records, or of what was sent."""
        wanted = told_by(in_order(sent) if sent else self.records(), CONFIG.max_history)
        states = self.states
        assert_states((each for p in range(states.num_partitions) for each in states.read(p, 0, 1 << 30)), wanted)
        assert len(self.letters.read(0, 0, 1 << 30)) == len(wanted.poison)


@pytest.mark.parametrize("seed", range(3))
def test_states_are_what_the_whole_log_gives(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path)
    for sent in mixed_log(600, 20, seed):
        world.append(sent)
    updater = world.updater()
    world.run(updater)
    world.check()
    updater.close()


@pytest.mark.parametrize("step", list(UpdateStep))
def test_a_step_that_fails_loses_and_repeats_nothing(tmp_path: Path, step: UpdateStep) -> None:
    world = World(tmp_path)
    draw = np.random.default_rng(step)
    world.fail_at = iter(lambda: step if draw.random() < 0.3 else None, 0)
    for sent in mixed_log(400, 20, seed=step):
        world.append(sent)
    updater = world.updater()
    world.run(updater)
    world.check()
    updater.close()


@pytest.mark.parametrize("folder", ["one", "another"], ids=["the same disk", "a new disk"])
def test_who_takes_over_goes_on_where_the_log_is(tmp_path: Path, folder: str) -> None:
    world = World(tmp_path)
    sent = mixed_log(400, 20, seed=4)
    for each in sent[:200]:
        world.append(each)
    updater = world.updater()
    for _ in range(6):
        updater.step(0)
    updater.close()
    for each in sent[200:]:
        world.append(each)
    successor = world.updater(folder=folder)
    world.run(successor)
    world.check()
    successor.close()


def test_an_owner_that_was_frozen_between_polls_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    for each in mixed_log(200, 10, seed=5):
        world.append(each)
    frozen = world.updater()
    while not frozen.step(0).num_records:
        pass
    world.events.evict(KAFKA.updaters_group)
    successor = world.updater(folder="another")
    world.run(successor)
    written = world.states.end(0)
    with pytest.raises(StaleAssignment):
        frozen.step(0)  # records that it had fetched before
    assert world.states.end(0) == written
    world.check()
    frozen.close()
    successor.close()


def test_a_member_that_the_group_does_not_know_any_more_writes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    transactions = InMemoryTransactions(world.events, {})
    with pytest.raises(StaleAssignment):
        transactions.commit([], {0: 1}, Membership(KAFKA.updaters_group, 7), {})


def test_too_much_poison_stops_its_partition_alone_for_later_owners_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    good, bad = (next(user for user in range(99) if home_partition(key_hash(encode_key(user)), 2) == p) for p in (0, 1))
    for place in range(100):
        world.events.append(encode_key(good), encode_event(good, place, 1_000_000_000_000 + place), 0)
        world.events.append(encode_key(bad), b"{", 1)
    updater = world.updater()
    for _ in range(30):
        updater.step(0)
    assert list(updater.stopped) == [1]
    assert "poison" in updater.stopped[1]
    assert world.events.stored(KAFKA.updaters_group, [0, 1])[0] == 100
    letters = world.letters.end(0)
    updater.close()
    successor = world.updater()
    for _ in range(30):
        successor.step(0)
    assert (list(successor.stopped), world.letters.end(0)) == ([1], letters)
    world.events.store(KAFKA.updaters_group, {1: 100})
    successor.look_at_stopped()
    world.events.append(encode_key(bad), encode_event(bad, 1, 1_000_000_000_000), 1)
    for _ in range(10):
        successor.step(0)
    assert not successor.stopped
    assert world.events.stored(KAFKA.updaters_group, [1])[1] == 101
    successor.close()


def test_a_lost_position_stops_its_partition_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    for each in mixed_log(100, 10, seed=6):
        world.append(each)
    updater = world.updater()
    world.run(updater)
    updater.close()
    for each in mixed_log(100, 10, seed=7):
        world.append(each)
    world.events.truncate(1, world.events.end(1) - 1)
    successor = world.updater()
    for _ in range(40):
        successor.step(0)
    assert list(successor.stopped) == [1]
    assert world.events.stored(KAFKA.updaters_group, [0])[0] == world.events.end(0)
    successor.close()


def test_states_of_another_log_are_not_touched_until_an_operator_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    for each in mixed_log(100, 5, seed=8):
        world.append(each)
    updater = world.updater()
    world.run(updater)
    updater.close()
    before = world.states.end(0)
    world.events = InMemoryLog(1)
    world.events.append(encode_key(3), encode_event(3, 7, 1_700_000_000_000), 0)
    successor = world.updater()
    for _ in range(5):
        successor.step(0)
    assert "its states are of topic events" in successor.stopped[0]
    assert "--reset 0=oldest" in successor.stopped[0]
    assert world.states.end(0) == before
    world.states.append(EVENTS_LOG_KEY, str(world.events.identity).encode(), 0)
    world.events.store(KAFKA.updaters_group, {0: 0})
    successor.look_at_stopped()
    for _ in range(5):
        successor.step(0)
    assert not successor.stopped
    [found] = store_of(successor, 0).get([3])
    assert found is not None
    assert decode_state(3, found.value, FEATURES.behavior).history.item_keys[-1] == 7
    successor.close()


def test_states_that_are_gone_stop_their_partition_until_an_operator_lets_the_events_be_read_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, num_partitions=1)
    for each in mixed_log(100, 5, seed=8, poison_share=0):
        world.append(each)
    updater = world.updater()
    world.run(updater)
    updater.close()
    num_states, world.states = world.states.end(0), InMemoryLog(1)
    successor = world.updater(folder="a new disk")
    for _ in range(5):
        successor.step(0)
    assert num_states > 0
    assert successor.stopped[0].startswith("its states are gone: events up to ")
    assert "--reset 0=oldest" in successor.stopped[0]
    assert world.states.end(0) == 0
    world.states.append(EVENTS_LOG_KEY, str(world.events.identity).encode(), 0)
    world.events.store(KAFKA.updaters_group, {0: 0})
    successor.look_at_stopped()
    world.run(successor)
    assert not successor.stopped
    world.check()
    successor.close()


@pytest.mark.parametrize("counts", [(1, 2), (2, 4), (2, 3), (3, 4, 8)])
def test_added_partitions_are_followed_in_each_users_order(tmp_path: Path, counts: tuple[int, ...]) -> None:
    world = World(tmp_path, num_partitions=counts[0])
    draw = np.random.default_rng(0)
    world.fail_at = iter(lambda: UpdateStep(int(draw.integers(1, 8))) if draw.random() < 0.05 else None, 0)
    sent: list[KeyValue] = []
    updater = world.updater()
    for stage, count in enumerate(counts):
        world.events.grow(count)
        for each in mixed_log(300, 20, seed=stage):
            world.append(each)
            sent.append(each)
        for _ in range(5):  # it grows on while some of it is still to be taken
            with suppress(MindDistError):
                updater.step(0)
    world.run(updater)
    world.check(sent)
    assert not updater.stopped
    updater.close()
    successor = world.updater(folder="another")
    world.run(successor)
    world.check(sent)
    successor.close()


def test_another_partitioner_is_believed_until_partitions_are_added(tmp_path: Path) -> None:
    world = World(tmp_path)
    away = [user for user in range(40) if home_partition(key_hash(encode_key(user)), 2)]
    for user in away[:5]:
        world.events.append(encode_key(user), encode_event(user, 7, 1_700_000_000_000), 0)
    updater = world.updater()
    world.run(updater)
    assert sorted(store_of(updater, 0).user_keys()) == away[:5]
    world.events.grow(3)
    lost = next(user for user in away if home_partition(key_hash(encode_key(user)), 3))
    world.events.append(encode_key(lost), encode_event(lost, 8, 1_700_000_000_000), 0)
    world.run(updater)
    assert [letter.key for letter in world.letters.read(0, 0, 9)] == [encode_key(lost)]
    updater.close()


def test_poison_that_an_operator_has_let_go_on_does_not_stop_it_again(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    group, window = KAFKA.updaters_group, KAFKA.poison_window

    def append(num_good: int, num_poison: int) -> None:
        for place in range(num_good):
            world.events.append(encode_key(3), encode_event(3, place, 1_700_000_000_000 + world.events.end(0)))
        for _ in range(num_poison):
            world.events.append(encode_key(3), b"{")

    append(window, 2 * window)
    updater = world.updater()
    while not updater.stopped:
        updater.step(0)
    [at] = world.events.stored(group, [0]).values()
    world.events.store(group, {0: at}, {0: Note(forgiven_to=world.events.end(0)).to_text()})
    updater.look_at_stopped()
    world.run(updater)
    updater.close()
    successor = world.updater(folder="another")
    append(2 * window, 2)
    world.run(successor)
    assert not successor.stopped
    append(0, window)
    while not successor.stopped:
        successor.step(0)
    successor.close()


def test_a_partition_without_users_is_at_its_end(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    updater = world.updater()
    for _ in range(3):
        updater.step(0)
    assert world.states.read(0, 0, 9)[-1].key == EVENTS_LOG_KEY
    assert store_of(updater, 0).position == 1
    updater.close()


def test_who_takes_over_waits_for_states_that_show_after_their_positions(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    for each in mixed_log(100, 5, seed=9):
        world.append(each)
    updater = world.updater(shows_late=True)
    world.run(updater)
    updater.close()
    successor = world.updater(folder="another")
    for each in mixed_log(100, 5, seed=10):
        world.append(each)
    for _ in range(5):
        assert successor.step(0).num_records == 0
    world.states.show_all()
    world.letters.show_all()
    world.run(successor)
    world.check()
    successor.close()


def test_a_state_that_cannot_be_read_stops_its_partition_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    users = [next(user for user in range(99) if home_partition(key_hash(encode_key(user)), 2) == p) for p in (0, 1)]
    world.states.append(str(users[1]).encode(), b"\x63 of a newer release", 1)
    for partition, user in enumerate(users):
        world.events.append(encode_key(user), encode_event(user, 3, 1_000_000_000_000), partition)
    updater = world.updater()
    for _ in range(5):
        updater.step(0)
    assert list(updater.stopped) == [1]
    assert f"user {users[1]}: the state has format 99, this is 1" in updater.stopped[1]
    assert world.events.stored(KAFKA.updaters_group, [0, 1]) == {0: 1, 1: 0}
    updater.close()


def test_what_is_known_of_a_user_may_be_a_profile_alone(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    world.events.append(encode_key(3), encode_history(3, [], {"age": 30}), 0)
    updater = world.updater()
    world.run(updater)
    world.check()
    updater.close()


def test_a_profile_that_no_broker_would_take_with_the_state_is_poison(tmp_path: Path) -> None:
    world = World(tmp_path, num_partitions=1)
    world.events.append(encode_key(3), encode_history(3, [], {"essay": "x" * LONGEST_PROFILE_BYTES}), 0)
    world.events.append(encode_key(3), encode_history(3, [], {"essay": "x" * (LONGEST_PROFILE_BYTES - 100)}), 0)
    updater = world.updater()
    world.run(updater)
    assert world.letters.end(0)
    [letter] = world.letters.read(0, 0, 9)
    assert letter.key == b"3"
    [found] = store_of(updater, 0).get([3])
    assert found is not None
    updater.close()


def test_whatever_records_do_to_us_the_other_partitions_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    users = [next(user for user in range(99) if home_partition(key_hash(encode_key(user)), 2) == p) for p in (0, 1)]
    for partition, user in enumerate(users):
        world.events.append(encode_key(user), encode_event(user, 3, 1_000_000_000_000), partition)

    def unexpected(self: BehaviorSequence, *_arguments: object, **_settings: object) -> BehaviorSequence:
        if self.user_key == users[1]:
            raise IndexError("what nobody thought of")
        return merge(self, *_arguments, **_settings)  # type: ignore[arg-type]

    merge = BehaviorSequence.merge
    monkeypatch.setattr(BehaviorSequence, "merge", unexpected)
    updater = world.updater()
    for _ in range(5):
        updater.step(0)
    assert dict(updater.stopped) == {1: "IndexError: what nobody thought of: see the log"}
    assert world.events.stored(KAFKA.updaters_group, [0, 1]) == {0: 1, 1: 0}
    updater.close()
