"""What a version restores is what is trained on: positions reach the readers, and tables of another size take the rows.

Both went wrong in other trainers without a word: a reader that was opened before the positions were restored began anew,
and a table that had another size when it was loaded took none of the rows, or those of other keys.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mind_dist.checkpoint import ModelVersion, TableRows
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.examples.source import Examples, ExampleSource
from mind_dist.storage import Directory
from mind_dist.training import open_run as opening
from mind_dist.training.collectives import Collectives
from mind_dist.training.settings import TrainSettings
from tests.thread_ranks import together
from tests.toy_training import (
    FROM_LOG,
    MODEL,
    NUM_BUCKETS,
    NUM_ITEMS,
    TRAINING,
    event_examples,
    open_run,
    parquet_examples,
    toy_log,
    write_dataset,
)

RANKS = pytest.mark.parametrize("num_ranks", [1, 2, 3])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset")))


def begun(examples: ExampleSource, dataset: PreparedDataset, path: Path, *, is_log: bool) -> ModelVersion:
    """Return a version that was saved after some steps."""
    run = open_run(examples, dataset, observe=is_log, config=FROM_LOG if is_log else TRAINING)
    for _ in islice(run.steps(), 2):
        pass
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


def assert_same(one: Examples, other: Examples) -> None:
    assert len(one) == len(other) > 0
    for column in dataclasses.fields(Examples):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(other, column.name))


@RANKS
def test_restored_positions_reach_the_reader_of_every_bucket(
    num_ranks: int, dataset: PreparedDataset, tmp_path: Path
) -> None:
    saved = begun(parquet_examples(dataset, TRAINING), dataset, tmp_path / "version", is_log=False)
    settings = TrainSettings(dataset.directory.uri, str(tmp_path), model=MODEL, training=TRAINING)

    def first(ranks: Collectives) -> dict[int, Examples]:
        examples = opening._open_dataset(settings, dataset, saved, ranks, 0)
        return {partition: examples.take(partition, 3) for partition in examples.partitions}

    found = {partition: each for part in together(num_ranks, first) for partition, each in part.items()}
    assert sorted(found) == list(range(NUM_BUCKETS))
    for partition, examples in found.items():
        from_start = parquet_examples(dataset, TRAINING)
        from_start.take(partition, saved.manifest.positions[partition])
        assert_same(examples, from_start.take(partition, 3))


@RANKS
def test_restored_positions_and_histories_reach_the_reader_of_every_partition_of_a_log(
    num_ranks: int, dataset: PreparedDataset, tmp_path: Path
) -> None:
    log = toy_log(poison_every=11)
    before = event_examples(log, dataset=dataset)
    saved = begun(before, dataset, tmp_path / "version", is_log=True)

    def first(ranks: Collectives) -> dict[int, Examples]:
        mine = range(ranks.rank, log.num_partitions, ranks.world_size)
        examples = event_examples(log, saved, dataset=dataset, partitions=mine)
        return {partition: examples.take(partition, 3) for partition in examples.partitions}

    found = {partition: each for part in together(num_ranks, first) for partition, each in part.items()}
    assert sorted(found) == list(range(NUM_BUCKETS))
    for partition, examples in found.items():
        assert_same(examples, before.take(partition, 3))


def with_catalog(dataset: PreparedDataset, path: Path, *, num_more: int, num_fewer: int) -> PreparedDataset:
    """Return the same dataset with items that nobody has seen, and without some that were."""
    write_dataset(path)
    items = dataset.catalog().table
    more = [{**items.slice(0, 1).to_pylist()[0], "item_id": NUM_ITEMS + 1 + n, "count": 0} for n in range(num_more)]
    rows = pa.concat_tables([items.slice(num_fewer), pa.Table.from_pylist(more, schema=items.schema)])
    Directory.at(path).write_table("items.parquet", rows)
    return PreparedDataset.open(str(path))


@RANKS
@pytest.mark.parametrize(("num_more", "num_fewer"), [(0, 0), (1000, 0), (0, 5), (7, 5)])
def test_a_table_of_another_size_than_at_the_save_takes_every_row_under_its_key(
    num_more: int, num_fewer: int, num_ranks: int, dataset: PreparedDataset, tmp_path: Path
) -> None:
    log = toy_log()
    saved = begun(event_examples(log, dataset=dataset), dataset, tmp_path / "version", is_log=True)
    now = with_catalog(dataset, tmp_path / "dataset", num_more=num_more, num_fewer=num_fewer)

    def restored(ranks: Collectives) -> TableRows:
        examples = event_examples(log, saved, dataset=now, partitions=[])
        run = open_run(examples, now, saved, observe=True, config=FROM_LOG, collectives=ranks)
        return run.table.all_rows()

    expected = saved.items()
    for found in together(num_ranks, restored):
        at = np.searchsorted(found.keys, expected.keys)
        for column in dataclasses.fields(TableRows):
            np.testing.assert_array_equal(getattr(found, column.name)[at], getattr(expected, column.name))
        assert not found.counts[~np.isin(found.keys, expected.keys)].any(), "what was not saved was not seen"
