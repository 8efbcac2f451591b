"""Training examples: which there are, in what order, and how they make batches."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mind_dist.dataset.bucket_file import BucketFile
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.profile_keys import ProfileKeys, distinct_profile_keys
from mind_dist.errors import DatasetError, PoisonLimitExceeded, PositionLost
from mind_dist.examples.batches import Batch, batches, next_batch
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.examples.source import Examples, ExampleSource
from mind_dist.keys import partition_of
from mind_dist.log.codec import PoisonGate, encode_event, encode_key
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog
from tests.toy_training import NUM_BUCKETS, event_examples, toy_log, toy_users, write_dataset

Window = tuple[tuple[int, ...], tuple[int, ...]]


@pytest.fixture(scope="module", params=[None, 1, 3], ids=["one block", "blocks of one user", "blocks of three users"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset"), users_per_block=request.param))


def open_dataset(dataset: PreparedDataset, **options: Any) -> ParquetExamples:
    shape = {"max_behaviors": 4, "num_targets": 2, "seed": 1} | options
    return ParquetExamples(dataset, shape.pop("partitions", range(NUM_BUCKETS)), **shape)


def windows(examples: Examples) -> list[Window]:
    return [
        (
            tuple(examples.history[row][examples.history_mask[row]].tolist()),
            tuple(examples.targets[row][examples.target_mask[row]].tolist()),
        )
        for row in range(len(examples))
    ]


def rows(all_batches: Sequence[Batch]) -> list[Any]:
    """Return batches as plain values that compare."""
    columns = [dataclasses.astuple(batch.examples) for batch in all_batches]
    return [
        ([column.tolist() for column in batch], dict(b.positions))
        for batch, b in zip(columns, all_batches, strict=True)
    ]


def windows_by_hand(max_behaviors: int, num_targets: int) -> Counter[Window]:
    expected: Counter[Window] = Counter()
    for user in toy_users():
        items = user.item_keys.tolist()
        for end in range(1, len(items)):
            expected[tuple(items[max(0, end - max_behaviors) : end]), tuple(items[end : end + num_targets])] += 1
    return expected


def test_each_window_of_each_user_comes_once_per_epoch(dataset: PreparedDataset) -> None:
    source = open_dataset(dataset, epochs=3)
    trained = Counter(window for batch in batches(source, 7) for window in windows(batch.examples))
    assert trained == Counter({window: 3 * count for window, count in windows_by_hand(4, 2).items()})


def test_epochs_have_orders_of_their_own_that_depend_on_the_seed(dataset: PreparedDataset) -> None:
    num_examples = open_dataset(dataset, partitions=[0]).num_examples
    first_two = [windows(source.take(0, num_examples)) for source in [open_dataset(dataset, epochs=2)] for _ in "12"]
    other_seed = windows(open_dataset(dataset, seed=2).take(0, num_examples))
    assert first_two[0] != first_two[1]
    assert first_two[0] != other_seed
    assert sorted(first_two[0]) == sorted(first_two[1]) == sorted(other_seed)


def test_profiles_and_times_belong_to_the_window(dataset: PreparedDataset) -> None:
    profiles = dataset.profiles()
    by_time = {int(time): user for user in toy_users() for time in user.timestamps_ms}
    for batch in batches(open_dataset(dataset), 16):
        assert batch.watermark_ms == max(batch.examples.timestamps_ms)
        for profile, time_ms, targets in zip(
            batch.examples.profile, batch.examples.timestamps_ms, batch.examples.targets, strict=True
        ):
            user = by_time[int(time_ms)]
            assert profile.tolist() == profiles[user.user_key].tolist()
            assert targets[0] in user.item_keys


def test_batches_after_a_batch_depend_on_its_positions_alone(dataset: PreparedDataset) -> None:
    whole = list(batches(open_dataset(dataset, epochs=2), 10))
    for at in (0, 3, len(whole) - 2):
        resumed = open_dataset(dataset, epochs=2, positions=whole[at].positions)
        assert rows(list(batches(resumed, 10))) == rows(whole[at + 1 :])


def test_batches_are_full_until_the_last_one(dataset: PreparedDataset) -> None:
    sizes = [len(batch) for batch in batches(open_dataset(dataset, epochs=2), 10)]
    assert set(sizes[:-1]) == {10}
    assert sum(sizes) == open_dataset(dataset, epochs=2).num_examples


def test_no_partition_starves_when_there_are_more_than_a_batch_holds(dataset: PreparedDataset) -> None:
    source = open_dataset(dataset)
    for _ in range(NUM_BUCKETS):
        next_batch(source, 1)
    assert set(source.positions().values()) == {1}


@pytest.fixture
def blocks_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks in the order in which they were read, as far as they were read whole."""
    read, found = BucketFile.read, list[int]()

    def reading(file: BucketFile, block: int, columns: list[str] | None = None) -> pa.Table:
        if columns is None:
            found.append(block)
        return read(file, block, columns)

    monkeypatch.setattr(BucketFile, "read", reading)
    return found


def test_a_block_is_read_when_the_one_before_is_half_taken_and_not_before(
    tmp_path: Path, blocks_read: list[int]
) -> None:
    """What is in memory is two blocks of each bucket, however many there are."""
    dataset = PreparedDataset.open(write_dataset(tmp_path, users_per_block=1))
    source = open_dataset(dataset, partitions=[0], epochs=2)
    with dataset.open_bucket("train", 0) as whole:
        sizes = {block: int(whole.lengths(block).sum()) - 1 for block in range(whole.num_blocks)}
    source.take(0, 1)
    [first] = blocks_read
    source.take(0, (sizes[first] - 1) // 2 - 1)
    assert blocks_read == [first]
    source.take(0, 1)
    wait_for(lambda: len(blocks_read) == 2)
    source.take(0, source.num_examples)
    assert source.finished()
    with_windows = sorted(block for block, size in sizes.items() if size)
    first_epoch, second_epoch = blocks_read[: len(with_windows)], blocks_read[len(with_windows) - 1 :]
    assert sorted(first_epoch) == sorted(second_epoch) == with_windows, (
        "what ends one epoch and begins the next is at hand"
    )
    assert first_epoch != second_epoch, "an epoch has an order of its own"
    source.close()


def test_a_bucket_of_one_block_is_read_once(tmp_path: Path, blocks_read: list[int]) -> None:
    source = open_dataset(PreparedDataset.open(write_dataset(tmp_path)), partitions=[0], epochs=3)
    source.take(0, source.num_examples)
    assert blocks_read == [0]


def test_a_block_that_is_torn_is_told_when_the_dataset_is_opened(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path, users_per_block=3))
    path = tmp_path / "sequences/train/bucket-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"bucket-00001\.parquet: missing or torn"):
        open_dataset(dataset)


def test_profiles_are_those_of_the_buckets_owned(dataset: PreparedDataset) -> None:
    found = ProfileKeys.of_buckets(dataset, [2])
    users = [user.user_key for user in toy_users()]
    assert found.users.tolist() == sorted(user for user in users if partition_of(np.array([user]), NUM_BUCKETS)[0] == 2)
    assert found.of(np.array([-5])).tolist() == [[0]]
    everybodys = np.concatenate([*dataset.profiles().values()])
    assert distinct_profile_keys(dataset).tolist() == sorted(set(everybodys.tolist()) - {0})


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def first_of(examples: Examples) -> list[tuple[int, int]]:
    """Return the user of each window, and which of that user's behaviors is its first target."""
    place = {int(time): (user.user_key, at) for user in toy_users() for at, time in enumerate(user.timestamps_ms)}
    last = [place[int(time)] for time in examples.timestamps_ms]
    return [
        (user, at + 1 - int(count)) for (user, at), count in zip(last, examples.target_mask.sum(axis=1), strict=True)
    ]


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 20])
def test_a_stride_takes_one_window_for_so_many_behaviors_of_a_user(dataset: PreparedDataset, stride: int) -> None:
    source = open_dataset(dataset, window_stride=stride, epochs=2)
    taken = Counter(user for batch in batches(source, 7) for user, _ in first_of(batch.examples))
    expected = {user.user_key: -(-(len(user) - 1) // stride) for user in toy_users() if len(user) > 1}
    assert taken == Counter({user: 2 * count for user, count in expected.items()})


@pytest.mark.parametrize(("stride", "longest"), [(2, 1), (2, 4), (5, 4), (3, 50)])
def test_windows_of_a_stride_lie_anywhere_where_they_are_as_full_as_can_be(
    dataset: PreparedDataset, stride: int, longest: int
) -> None:
    source = open_dataset(dataset, window_stride=stride, max_behaviors=longest, epochs=60)
    users = {user.user_key: user.item_keys.tolist() for user in toy_users()}
    reached = set()
    for batch in batches(source, 500):
        for (user, at), (history, targets) in zip(first_of(batch.examples), windows(batch.examples), strict=True):
            assert len(history) == min(longest, len(users[user]) - 1)
            assert (history, targets) == (tuple(users[user][at - len(history) : at]), tuple(users[user][at : at + 2]))
            reached.add((user, at))
    assert reached == {
        (user, at) for user, items in users.items() for at in range(min(longest, len(items) - 1), len(items)) if at
    }


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_windows_as_far_apart_as_they_are_long_leave_nothing_out(dataset: PreparedDataset, longest: int) -> None:
    options = {"window_stride": longest, "max_behaviors": longest}
    source = open_dataset(dataset, epochs=5, **options)
    users = {user.user_key: user.item_keys.tolist() for user in toy_users()}
    sizes = {p: open_dataset(dataset, partitions=[p], **options).num_examples for p in source.partitions}
    layouts = set()
    for _ in range(5):
        found = [source.take(bucket, size) for bucket, size in sizes.items()]
        places = [place for examples in found for place in first_of(examples)]
        histories = [history for examples in found for history, _ in windows(examples)]
        assert histories == [tuple(users[user][max(0, at - longest) : at]) for user, at in places]
        reached = {(user, place) for user, at in places for place in range(max(1, at - longest + 1), at + 1)}
        assert reached == {(user, at) for user, items in users.items() for at in range(1, len(items))}
        layouts.add(tuple(sorted(places)))
    assert len(layouts) == (5 if longest == 3 else 1), "drawn for each epoch, where there is room"


def test_windows_of_a_stride_are_the_same_at_a_position_and_others_in_another_epoch(dataset: PreparedDataset) -> None:
    stride = {"window_stride": 2, "epochs": 2, "partitions": [1]}
    whole = list(batches(open_dataset(dataset, **stride), 5))
    for at in range(len(whole)):
        resumed = open_dataset(dataset, **stride, positions=whole[at].positions)
        assert rows(list(batches(resumed, 5))) == rows(whole[at + 1 :])
    num_examples = open_dataset(dataset, **stride).num_examples // 2
    source = open_dataset(dataset, **stride)
    epochs = [sorted(first_of(source.take(1, num_examples))) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(first_of(open_dataset(dataset, **stride, seed=9).take(1, num_examples))) != epochs[0]


def drain(source: ExampleSource, size: int = 5) -> list[Batch]:
    return list(batches(source, size))


def test_batches_of_a_log_are_the_same_however_polls_are_cut() -> None:
    log = toy_log(poison_every=9)
    expected = rows(drain(event_examples(log)))
    assert expected
    for max_records in (1, 3, 17):
        assert rows(drain(event_examples(log, max_records=max_records))) == expected


def test_an_event_is_an_example_with_its_users_history_before_it() -> None:
    log = InMemoryLog()
    for user, item, at_ms in [(1, 10, 5), (2, 20, 6), (1, 11, 7), (1, 12, 8), (1, 13, 9), (2, 21, 9)]:
        log.append(encode_key(user), encode_event(user, item, at_ms))
    (batch,) = batches(event_examples(log, max_behaviors=2), 10)
    assert windows(batch.examples) == [((10,), (11,)), ((10, 11), (12,)), ((11, 12), (13,)), ((20,), (21,))]
    assert batch.positions == {0: 6}


def test_late_events_take_their_place_and_duplicates_are_no_examples() -> None:
    log = InMemoryLog()
    for item, at_ms in [(10, 5), (11, 7), (11, 7), (12, 6), (9, 1), (13, 7), (14, 8)]:
        log.append(b"1", encode_event(1, item, at_ms))
    (batch,) = batches(event_examples(log), 10)
    assert windows(batch.examples) == [
        ((10,), (11,)),
        ((10,), (12,)),
        ((9, 10, 12, 11), (13,)),
        ((9, 10, 12, 11, 13), (14,)),
    ]


def test_a_tombstone_forgets_the_user() -> None:
    log = InMemoryLog()
    log.append(b"1", encode_event(1, 10, 5))
    log.append(b"1", None)
    log.append(b"1", encode_event(1, 11, 6))
    source = event_examples(log)
    assert not list(batches(source, 10))
    assert [history.sequence.item_keys.tolist() for history in source.history(0)] == [[11]]
    assert source.finished()
    assert source.positions() == {0: 3}


def test_poison_goes_to_the_dead_letters_and_positions_pass_it() -> None:
    log, letters = toy_log(poison_every=4), InMemoryDeadLetters()
    clean, poisoned = drain(event_examples(toy_log())), drain(event_examples(log, dead_letters=letters))
    num_events = sum(len(user) for user in toy_users())
    assert len(letters.letters) == -(-num_events // 4)
    assert sum(len(batch) for batch in clean) == sum(len(batch) for batch in poisoned)
    assert poisoned[-1].positions == {p: log.end(p) for p in range(NUM_BUCKETS)}


def test_events_of_other_types_are_no_examples_and_in_no_history() -> None:
    log = InMemoryLog()
    for item, event_type in enumerate(["seen", "buy", "seen", "buy", "Buy", "buy"]):
        log.append(encode_key(7), encode_event(7, item, item, event_type), 0)
    source = event_examples(log, event_types=("buy", "rent"))
    (batch,) = batches(source, 10)
    assert windows(batch.examples) == [((1,), (3,)), ((1, 3), (5,))]
    assert source.num_ignored == 3
    assert batch.positions == {0: 6}
    assert [history.sequence.item_keys.tolist() for history in source.history(0)] == [[1, 3, 5]]


def test_an_event_of_the_future_is_no_example() -> None:
    log, letters = InMemoryLog(), InMemoryDeadLetters()
    for item, ahead_ms in ((1, 0), (2, 7_200_000), (3, 60_000)):
        log.append(encode_key(7), encode_event(7, item, time.time_ns() // 1_000_000 + ahead_ms), 0)
    source = event_examples(log, dead_letters=letters)
    (batch,) = batches(source, 10)
    assert windows(batch.examples) == [((1,), (3,))]
    assert [record.offset for record, _ in letters.letters] == [1]


def test_a_broken_producer_stops_training() -> None:
    with pytest.raises(PoisonLimitExceeded):
        drain(event_examples(toy_log(poison_every=1), gate=PoisonGate(0.2, 20)))


def test_a_log_goes_on_from_positions_and_histories() -> None:
    log = toy_log(poison_every=7)
    first = event_examples(log)
    begun = [next_batch(first, 6) for _ in range(4)]
    histories = {partition: first.history(partition) for partition in first.partitions}
    resumed = event_examples(log, max_records=2, positions=begun[-1].positions, histories=histories)
    assert rows(drain(resumed, 6)) == rows(drain(first, 6))


def test_a_position_that_retention_took_stops_training() -> None:
    log = toy_log()
    source = event_examples(log)
    log.truncate(0, 3)
    with pytest.raises(PositionLost, match="partition 0: position 0 is gone, the oldest record kept is 3"):
        drain(source)
    assert drain(event_examples(log))


def test_what_arrives_after_the_start_is_left_for_the_next_run() -> None:
    log = InMemoryLog()
    log.append(b"1", encode_event(1, 10, 5))
    log.append(b"1", encode_event(1, 11, 6))
    source = event_examples(log)
    log.append(b"1", encode_event(1, 12, 7))
    assert [windows(batch.examples) for batch in batches(source, 1)] == [[((10,), (11,))]]
    assert source.positions() == {0: 2}


def test_a_followed_log_has_empty_batches_while_it_is_silent() -> None:
    log = InMemoryLog()
    log.append(b"1", encode_event(1, 10, 5))
    following = batches(event_examples(log, follow=True), 4)
    assert len(next(following)) == 0
    log.append(b"1", encode_event(1, 11, 6))
    assert windows(next(following).examples) == [((10,), (11,))]


def test_a_worker_without_partitions_has_nothing_to_do() -> None:
    assert not drain(event_examples(toy_log(), partitions=[], follow=True))


def test_users_of_a_log_have_their_profiles(dataset: PreparedDataset) -> None:
    (batch, *_) = drain(event_examples(toy_log(), dataset=dataset), 50)
    assert batch.examples.profile.shape == (len(batch), 1)
    assert len(np.unique(batch.examples.profile)) == 3
