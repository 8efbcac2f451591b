"""Reading a log partition by partition: bounded, without waiting for silent ones, and never stuck without a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mind_dist.checkpoint import ModelVersion
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import PartitionStalled, UnreadableBatch
from mind_dist.examples.batches import batches
from mind_dist.examples.partition_reader import PartitionReader
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryLog, InMemorySource
from mind_dist.records import Record
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun
from tests.toy_training import NUM_BUCKETS, event_examples, open_run, toy_log, write_dataset


class RecordingSource(InMemorySource):
    """A source that remembers how long each poll was to wait, and how much it brought."""

    def __init__(self, log: InMemoryLog, partition: int, max_records: int) -> None:
        super().__init__(log, "g", [partition], max_records)
        self.timeouts_s: list[float] = []

    def poll(self, timeout_s: float) -> Sequence[Record]:
        self.timeouts_s.append(timeout_s)
        return super().poll(timeout_s)


def reader_of(
    source: InMemorySource, *, follow: bool = False, stop: bool = False, stall_s: float = 60
) -> PartitionReader:
    return PartitionReader(
        source, 0, None, follow=follow, topic="events", stall_after_s=stall_s, should_stop=lambda: stop
    )


def click(log: InMemoryLog, user: int, time: int, partition: int = 0) -> None:
    log.append(encode_key(user), encode_event(user, 10 + time, time), partition)


def offsets(reader: PartitionReader) -> list[int]:
    found = []
    while (record := reader.next()) is not None:
        found.append(record.offset)
    return found


def test_a_reader_holds_one_poll_at_most() -> None:
    log = InMemoryLog()
    for time in range(5000):
        click(log, 1, time)
    reader = reader_of(InMemorySource(log, "g", [0], max_records=100))
    for offset in range(5000):
        record = reader.next()
        assert record is not None
        assert record.offset == offset
        assert len(reader._records) < 100
    assert reader.ended


def test_a_partition_that_delivers_nothing_before_its_end_is_an_error_that_names_it() -> None:
    log = InMemoryLog()
    click(log, 1, 1)
    click(log, 1, 2)
    reader = reader_of(InMemorySource(log, "g", [0], max_records=1), stall_s=0.3)
    assert reader.next() is not None
    log.stall(0)
    assert reader.next() is not None, "it was fetched before"
    click(log, 1, 3)
    stalled = reader_of(InMemorySource(log, "g", [0]), stall_s=0.3)
    with pytest.raises(
        PartitionStalled, match=r"partition 0 of topic events .* position 0, though its end is 3"
    ) as error:
        stalled.next()
    assert (error.value.partition, error.value.position, error.value.end) == (0, 0, 3)
    log.stall(0, stalled=False)
    assert offsets(stalled) == [0, 1, 2]


def test_a_reader_that_is_to_stop_does_not_wait_for_the_stall() -> None:
    log = InMemoryLog()
    click(log, 1, 1)
    log.stall(0)
    reader = reader_of(InMemorySource(log, "g", [0]), stop=True)
    assert reader.next() is None
    assert (reader.position, reader.ended) == (0, False)


def test_gaps_are_passed_and_at_the_end_they_do_not_stall() -> None:
    log = InMemoryLog()
    log.skip(0, 3)
    click(log, 1, 1)
    log.skip(0, 2)
    click(log, 1, 2)
    log.skip(0, 4)
    reader = reader_of(InMemorySource(log, "g", [0], max_records=1), stall_s=0.3)
    assert offsets(reader) == [3, 6]
    assert (reader.position, reader.ended) == (11, True)


def test_what_comes_behind_the_end_is_left_even_where_a_gap_hides_it() -> None:
    log = InMemoryLog()
    click(log, 1, 1)
    log.skip(0)
    reader = reader_of(InMemorySource(log, "g", [0]))
    click(log, 1, 2)
    assert offsets(reader) == [0]
    assert reader.position == 2


def test_a_followed_log_is_never_waited_for() -> None:
    log = toy_log()
    sources = {p: RecordingSource(log, p, 50) for p in range(NUM_BUCKETS)}
    examples = event_examples(log, follow=True, open_source=sources.__getitem__)
    following = batches(examples, 16)
    while examples.positions() != {p: log.end(p) for p in range(NUM_BUCKETS)}:
        next(following)
    assert len(next(following)) == 0
    assert {timeout for source in sources.values() for timeout in source.timeouts_s} == {0}


def test_a_batch_that_cannot_be_read_ends_training_by_name() -> None:
    log = toy_log()
    log.append_unreadable(1, "zstd", "zstandard")
    with pytest.raises(UnreadableBatch, match="pip install zstandard"):
        list(batches(event_examples(log), 16))


def test_a_run_that_is_stopped_while_a_partition_stalls_is_saved_and_goes_on_where_it_was(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path / "dataset"))
    log = toy_log(poison_every=11)
    whole = finish(open_run(event_examples(log, dataset=dataset), dataset, observe=True), tmp_path / "whole")
    log.stall(2)
    stopped = open_run(
        event_examples(log, dataset=dataset, max_records=5, should_stop=lambda: True), dataset, observe=True
    )
    for _ in stopped.steps(lambda: True):
        pass
    stopped.save(Directory.at(tmp_path / "stopped"))
    log.stall(2, stalled=False)
    version = ModelVersion.open(str(tmp_path / "stopped"))
    assert version.manifest.positions[2] == 0 < version.manifest.positions[1] < log.end(1)
    resumed = open_run(event_examples(log, version, dataset=dataset), dataset, version, observe=True)
    end = finish(resumed, tmp_path / "resumed")
    assert end.manifest.positions == whole.manifest.positions == {p: log.end(p) for p in range(NUM_BUCKETS)}
    assert end.items().counts.tolist() == whole.items().counts.tolist(), "each example once"


def finish(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))
