"""A topic grows while it is trained: each event once, in order, and one history a user, whatever producers know when."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.examples.batches import batches
from mind_dist.examples.events import EventExamples
from mind_dist.examples.placement import Placement
from mind_dist.log.codec import encode_event, encode_key, forwarded
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog
from mind_dist.records import PartTrained, Positions, UserHistory
from tests.toy_training import event_examples

MAX_BEHAVIORS = 4
FORGET = -1
POISON = -2


class Training:
    """Trains a log as the driver does, from checkpoint to checkpoint."""

    def __init__(self, log: InMemoryLog) -> None:
        self.log = log
        self.count = 0
        self.positions: Positions = {}
        self.part_trained: Mapping[int, Sequence[PartTrained]] = {}
        self.histories: dict[int, list[UserHistory]] = {}
        self.letters = InMemoryDeadLetters()
        self.trained: list[tuple[tuple[int, ...], int]] = []
        """History before it, and item, of each example."""

    def open(self, count: int) -> EventExamples:
        positions, histories = dict(self.positions), self.histories
        if self.count and count > self.count:
            histories = defaultdict(list)
            for history in (history for found in self.histories.values() for history in found):
                histories[home_partition(history.key_hash, count)].append(history)
            for partition, parts in self.part_trained.items():
                firsts = [part.first for part in parts if part.count == self.count]
                positions[partition] = min([positions[partition], *firsts])
        return event_examples(
            self.log,
            partitions=range(count),
            positions=positions,
            histories=histories,
            dead_letters=self.letters,
            max_behaviors=MAX_BEHAVIORS,
            placement=Placement(count, lambda: self.log.num_partitions, self.part_trained),
        )

    def train(self, count: int, most_batches: int = 1000) -> None:
        """Train some batches over the first partitions, and save."""
        examples = self.open(count)
        for _, batch in zip(range(most_batches), batches(examples, 3), strict=False):
            rows = batch.examples
            self.trained += [
                (tuple(rows.history[row][rows.history_mask[row]].tolist()), int(rows.targets[row, 0]))
                for row in range(len(rows))
            ]
        self.count, self.positions, self.part_trained = count, examples.positions(), examples.part_trained()
        self.histories = {partition: list(examples.history(partition)) for partition in examples.partitions}

    def users(self) -> dict[int, list[tuple[int, list[int]]]]:
        """Return for each user the partitions and items of its histories."""
        found = defaultdict(list)
        for partition, histories in self.histories.items():
            for sequence, _ in histories:
                found[sequence.user_key].append((partition, sequence.item_keys.tolist()))
        return dict(found)


def send(log: InMemoryLog, user: int, item: int, among: int, time: int) -> None:
    partition = home_partition(key_hash(encode_key(user)), among)
    value = None if item == FORGET else b"{" if item == POISON else encode_event(user, item, time)
    log.append(encode_key(user), value, partition)


def expected(events: Sequence[tuple[int, int, int]]) -> tuple[list[tuple[tuple[int, ...], int]], dict[int, list[int]]]:
    """Return the examples and the last histories of events (user, item, time) in the order in which they were sent."""
    examples, users = [], defaultdict[int, list[int]](list)
    for user, item, _ in events:
        if item == FORGET:
            users.pop(user, None)
        elif item != POISON:
            if users[user]:
                examples.append((tuple(users[user]), item))
            users[user] = [*users[user], item][-MAX_BEHAVIORS:]
    return examples, dict(users)


events_sent = st.tuples(st.integers(1, 12), st.sampled_from([1, 1, 1, 1, FORGET, POISON]))
steps = st.lists(
    st.one_of(events_sent, events_sent, st.sampled_from(["train", "all producers know", "grow"])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300)
@given(steps, steps, st.data())
def test_a_topic_that_grows_again_and_again_is_trained_as_if_it_had_not(
    before: list[tuple[int, int] | str], after: list[tuple[int, int] | str], data: st.DataObject
) -> None:
    """Producers learn of growth user by user; all know before it grows again, and before the run goes on with all."""
    log = InMemoryLog(num_partitions=2)
    training = Training(log)
    knows: dict[int, int] = defaultdict(lambda: 2)
    events: list[tuple[int, int, int]] = []
    training.train(2)
    for time, step in enumerate([*before, "grow", *after, "train", "all producers know"], start=1):
        if step == "train":
            training.train(training.count, data.draw(st.integers(1, 4)))
        elif step == "all producers know" or (step == "grow" and log.num_partitions < 9):
            knows = defaultdict(lambda now=log.num_partitions: now)  # type: ignore[misc]
            training.train(training.count)
            training.train(log.num_partitions)
            if step == "grow":
                old = log.num_partitions
                log.grow(old + data.draw(st.integers(1, 3)))
                knows = defaultdict(lambda old=old: old)  # type: ignore[misc]
        elif isinstance(step, tuple):
            user, kind = step
            item = kind if kind < 0 else 100 + time
            if data.draw(st.booleans()):
                knows[user] = log.num_partitions
            send(log, user, item, knows[user], time)
            events.append((user, item, time))
    training.train(log.num_partitions)
    examples, histories = expected(events)
    assert sorted(training.trained) == sorted(examples)
    now = log.num_partitions
    assert training.users() == {
        user: [(home_partition(key_hash(encode_key(user)), now), items)] for user, items in histories.items()
    }
    assert len(training.letters.letters) == sum(item == POISON for _, item, _ in events)
    assert training.positions == {partition: log.end(partition) for partition in range(now)}
    assert training.part_trained == {}


def user_of(old: int, among: int, new: int, among_new: int) -> int:
    """Return a user whose events move from one partition to another."""
    hashes = ((user, key_hash(encode_key(user))) for user in range(1, 1000))
    return next(u for u, h in hashes if (home_partition(h, among), home_partition(h, among_new)) == (old, new))


def test_what_producers_wrote_that_knew_later_is_trained_before_what_others_wrote_already() -> None:
    log = InMemoryLog(num_partitions=2)
    moves_in, moves_out, stays = user_of(0, 2, 1, 3), user_of(1, 2, 2, 3), user_of(1, 2, 1, 3)
    training = Training(log)
    for time, user in enumerate([moves_in, moves_out, stays]):
        send(log, user, 10, 2, time)
    training.train(2)
    log.grow(3)
    send(log, moves_in, 11, 3, 10)  # offset 2 of partition 1
    send(log, moves_out, 11, 2, 11)  # of a producer that does not know yet
    send(log, stays, 11, 3, 12)
    send(log, moves_out, 12, 3, 13)
    training.train(2)
    assert training.trained == [((10,), 11), ((10,), 11)]
    assert training.part_trained == {1: [PartTrained(2, 2, 5)]}
    training.train(3, most_batches=0)
    assert (training.positions, training.part_trained) == ({0: 1, 1: 2, 2: 0}, {1: [PartTrained(2, 2, 5)]})
    training.train(3)
    assert training.trained[2:] == [((10,), 11), ((10, 11), 12)]
    assert training.users() == {moves_in: [(1, [10, 11])], moves_out: [(2, [10, 11, 12])], stays: [(1, [10, 11])]}
    assert training.part_trained == {}


def test_a_topic_of_another_partitioner_is_trained_where_its_records_are_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = InMemoryLog(num_partitions=2)
    for user in range(1, 200):
        partition = 1 - home_partition(key_hash(encode_key(user)), 2)
        for time in (1, 2):
            log.append(encode_key(user), encode_event(user, 10 + time, time), partition)
    training = Training(log)
    asked = []

    def count_now() -> int:
        asked.append(1)
        return 2

    placement = Placement(2, count_now, {}, clock=lambda: 0)
    with caplog.at_level(logging.WARNING):
        examples = event_examples(log, max_behaviors=MAX_BEHAVIORS, placement=placement)
        training.trained = [((), len(batch)) for batch in batches(examples, 50)]
    assert sum(count for _, count in training.trained) == 199
    assert examples.part_trained() == {}
    assert ["another partition than murmur2" in record.message for record in caplog.records] == [True]
    assert len(asked) <= 101, "a broker is not asked for each of its users"


def test_what_updaters_forward_is_no_example_and_no_second_history(caplog: pytest.LogCaptureFixture) -> None:
    log = InMemoryLog(num_partitions=4)
    users = [user for user in range(40) if home_partition(key_hash(encode_key(user)), 4) >= 2]
    for user, time in product(users, (1, 2)):
        send(log, user, 10 + time, 4, time)
    for record in [record for p in (2, 3) for record in log.read(p, 0, 999)]:
        log.append(record.key, forwarded(record), home_partition(key_hash(record.key or b""), 2))
    training = Training(log)
    training.train(4)
    assert training.trained == [((11,), 12)] * len(users)
    assert all(len(histories) == 1 for histories in training.users().values())
    assert not caplog.records
