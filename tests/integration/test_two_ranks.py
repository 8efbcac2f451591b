"""Two ranks in two processes: they never hang, stay equal, and learn what one rank would."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch import multiprocessing as processes

from mind_dist.checkpoint import ModelVersion, TableRows
from mind_dist.config import SampledConfig, TrainingConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import ConfigError, MindDistError, TrainingError
from mind_dist.examples.batches import Batch
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.examples.source import Examples
from mind_dist.records import Keys
from mind_dist.storage import Directory
from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank, failing_together
from mind_dist.training.item_table import ItemTable
from mind_dist.training.loop import train
from mind_dist.training.run import TrainingRun
from tests.toy_training import MODEL, TRAINING, event_examples, parquet_examples, toy_log, write_dataset

CONFIG = dataclasses.replace(TRAINING, negatives=SampledConfig(count=4000), lr_decay=False)
"""So many negatives that every item is in every pool: the loss is the full softmax, whoever computes it."""


@pytest.fixture(scope="module")
def dataset_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def results(dataset_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what came of everything below that takes `ranks`."""
    directory = tmp_path_factory.mktemp("results")
    processes.spawn(_rank, args=(dataset_uri, str(directory)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return directory


def _rank(rank: int, dataset_uri: str, directory: str) -> None:
    torch.set_num_threads(1)
    meeting, timeout = f"file://{directory}/meeting", timedelta(seconds=60)  # one that waits for the other fails by it
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timeout)
    dataset = PreparedDataset.open(dataset_uri)
    for work in (
        agree_and_average,
        train_unequal_shares,
        train_on_targets_of_all,
        train_on_a_log,
        train_with_a_broken_rank,
        *FAULTS,
        share_a_batch,
        stop_when_one_is_asked,
        save_when_one_is_asked,
    ):
        ranks = ProcessGroup(torch.device("cpu"))
        torch.save(work(ranks, dataset, directory), f"{directory}/{work.__name__}-{rank}.pt")
    distributed.destroy_process_group()


def of_both(results: Path, work: Callable[..., Any]) -> list[Any]:
    return [torch.load(results / f"{work.__name__}-{rank}.pt", weights_only=False) for rank in (0, 1)]


def run_over(dataset: PreparedDataset, examples: Any, ranks: Collectives, config: Any, **options: Any) -> TrainingRun:
    return TrainingRun(examples, dataset, MODEL, config, source="toy", collectives=ranks, **options)


def shares(dataset: PreparedDataset) -> list[tuple[Examples, Examples]]:
    """Return what two ranks have in each step: unequal, and the second rank runs dry."""
    source = parquet_examples(dataset, CONFIG)
    sizes = [(9, 3), (5, 5), (1, 8), (7, 0), (4, 0)]
    return [(source.take(0, first), source.take(1, second)) for first, second in sizes]


def trained_on(
    run: TrainingRun,
    batches: list[Examples],
    ranks: Collectives,
    dataset: PreparedDataset,
    config: TrainingConfig = CONFIG,
) -> list[float]:
    reports = train(
        run.model,
        run._optimizer,
        run.table,
        (Batch(examples, {}) for examples in batches),
        model_config=MODEL,
        config=config,
        features=dataset.catalog(),
        empty_batch=Batch(Examples.none(CONFIG.max_behaviors, CONFIG.num_targets, 1), {}),
        learning_rate=lambda _step: 0.01,
        collectives=ranks,
    )
    return [report.loss for report in reports]


def train_unequal_shares(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> dict[str, Any]:
    mine = [share[ranks.rank] for share in shares(dataset)]
    run = run_over(dataset, parquet_examples(dataset, CONFIG, partitions=[]), ranks, CONFIG)
    losses = trained_on(run, mine if ranks.rank == 0 else mine[:3], ranks, dataset)
    return {"losses": losses, **state_of(run)}


TARGETS_OF_ALL = dataclasses.replace(CONFIG, negatives=SampledConfig(count=0))


def train_on_targets_of_all(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> list[float]:
    mine = [share[ranks.rank] for share in shares(dataset)[:1]]
    run = run_over(dataset, parquet_examples(dataset, CONFIG, partitions=[]), ranks, TARGETS_OF_ALL)
    return trained_on(run, mine, ranks, dataset, TARGETS_OF_ALL)


def test_the_targets_of_all_ranks_are_negatives_as_those_of_one_rank_would_be(dataset_uri: str, results: Path) -> None:
    dataset = PreparedDataset.open(dataset_uri)
    run = run_over(dataset, parquet_examples(dataset, CONFIG, partitions=[]), SingleRank(), TARGETS_OF_ALL)
    both = [Examples.concatenate(shares(dataset)[0])]
    expected = trained_on(run, both, SingleRank(), dataset, TARGETS_OF_ALL)
    for losses in of_both(results, train_on_targets_of_all):
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def state_of(run: TrainingRun) -> dict[str, Any]:
    return {"rows": vars(run.table.all_rows()), "dense": run.model.state_dict()}


def test_unequal_ranks_learn_what_one_rank_would_from_all_their_examples(dataset_uri: str, results: Path) -> None:
    dataset = PreparedDataset.open(dataset_uri)
    first, second = of_both(results, train_unequal_shares)
    run = run_over(dataset, parquet_examples(dataset, CONFIG, partitions=[]), SingleRank(), CONFIG)
    losses = trained_on(run, [Examples.concatenate(pair) for pair in shares(dataset)], SingleRank(), dataset)
    assert first["losses"] == second["losses"]
    np.testing.assert_allclose(first["losses"], losses, rtol=1e-5)
    assert_equal_states(first, second)
    for name, parameter in run.model.state_dict().items():
        torch.testing.assert_close(first["dense"][name], parameter, rtol=1e-3, atol=1e-5)
    rows = run.table.all_rows()
    np.testing.assert_array_equal(first["rows"]["keys"], rows.keys)
    np.testing.assert_array_equal(first["rows"]["steps"], rows.steps)
    np.testing.assert_allclose(first["rows"]["vectors"], rows.vectors, rtol=1e-3, atol=1e-4)


def assert_equal_states(left: Any, right: Any) -> None:
    for column in dataclasses.fields(TableRows):
        np.testing.assert_array_equal(left["rows"][column.name], right["rows"][column.name])
    for name, parameter in left["dense"].items():
        assert torch.equal(parameter, right["dense"][name])


def train_on_a_log(ranks: Collectives, dataset: PreparedDataset, directory: str) -> dict[str, Any]:
    config = dataclasses.replace(TRAINING, admission_count=2)
    mine = [0, 1, 2] if ranks.rank == 0 else [3]
    run = run_over(dataset, event_examples(toy_log(), partitions=mine, dataset=dataset), ranks, config, observe=True)
    for _ in run.steps():
        pass
    run.save(Directory.at(f"{directory}/version"))
    return state_of(run)


def test_replicas_that_count_and_admit_stay_equal_and_save_one_version(dataset_uri: str, results: Path) -> None:
    assert_equal_states(*of_both(results, train_on_a_log))
    version = ModelVersion.open(str(results / "version"))
    log = toy_log()
    assert version.manifest.positions == {partition: log.end(partition) for partition in range(4)}
    assert all(version.history(partition) for partition in range(4))
    assert len(version.items()) > 20
    one = run_over(
        PreparedDataset.open(dataset_uri),
        parquet_examples(PreparedDataset.open(dataset_uri), CONFIG),
        SingleRank(),
        CONFIG,
    )
    one.resume(version)
    assert one.step == version.manifest.step


def agree_and_average(ranks: Collectives, _dataset: PreparedDataset, _directory: str) -> dict[str, Any]:
    mine = [torch.full((2, 3), float(ranks.rank)), torch.tensor([4.0 * ranks.rank])]
    ranks.average(mine)
    rows = torch.arange(3 * ranks.rank).reshape(-1, 3)
    sent = [2, 3] if ranks.rank == 0 else [4, 0]
    told = ranks.meet([*sent, *range(7)])  # one for each rank, and as many as there may be beside
    numbers = 10 * ranks.rank + torch.arange(sum(sent))
    return {
        "sum": ranks.sum([1, ranks.rank, 0.5]),
        "averaged": mine,
        "gathered": ranks.gather(rows),
        "told": told.tolist(),
        "exchanged": ranks.exchange(numbers, sent, told[:, ranks.rank].long().tolist()).tolist(),
        "also": ranks.average([], also=[ranks.rank, 2]),
    }


def test_ranks_sum_average_gather_and_exchange(results: Path) -> None:
    for found in of_both(results, agree_and_average):
        assert found["sum"] == [2, 1, 1.0]
        assert torch.equal(found["averaged"][0], torch.full((2, 3), 0.5))
        assert found["averaged"][1].tolist() == [2.0]
        assert [part.tolist() for part in found["gathered"]] == [[], [[0, 1, 2]]]
        assert found["told"] == [[2, 3, *range(7)], [4, 0, *range(7)]]
        assert found["also"] == [1, 4]
    assert [found["exchanged"] for found in of_both(results, agree_and_average)] == [[0, 1, 10, 11, 12, 13], [2, 3, 4]]


def train_with_a_broken_rank(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> str:
    run = run_over(dataset, half(dataset, ranks), ranks, TRAINING)
    steps = run.steps(lambda: False)
    next(steps)
    if ranks.rank == 1:
        with torch.no_grad():
            run.model.get_parameter("extraction.inner.bilinear").fill_(torch.nan)
    with pytest.raises(TrainingError) as raised:
        next(steps)
    return str(raised.value)


def test_all_ranks_stop_when_the_loss_of_one_is_not_finite(results: Path) -> None:
    for message in of_both(results, train_with_a_broken_rank):
        assert message.startswith("worker 1 of 2: step 2: the loss is not finite, first in interests")


def half(dataset: PreparedDataset, ranks: Collectives) -> ParquetExamples:
    return parquet_examples(dataset, TRAINING, partitions=[ranks.rank, ranks.rank + 2])


def raised_by(ranks: Collectives, work: Callable[[], object]) -> tuple[str, str]:
    """Return the kind of what is raised when a rank does something together with the other one, and its message."""
    try:
        with failing_together(ranks):
            work()
    except MindDistError as error:
        return type(error).__name__, str(error)
    return "nothing", ""


class BrokenGradients(ItemTable):
    """A table whose rows get a gradient that is not finite."""

    def lookup(self, keys: Keys, also: Sequence[float] = ()) -> tuple[torch.Tensor, list[float]]:
        rows, sums = super().lookup(keys, also)
        rows.register_hook(lambda gradient: gradient / 0)
        return rows, sums


def meet_a_broken_row_gradient(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> tuple[str, str]:
    run = run_over(dataset, half(dataset, ranks), ranks, TRAINING)
    if ranks.rank == 1:
        run.table.__class__ = BrokenGradients
    return raised_by(ranks, lambda: list(run.steps()))


class BrokenExamples(ParquetExamples):
    """A share whose third batch cannot be read."""

    def take(self, partition: int, count: int) -> Examples:
        if sum(self.positions().values()) >= 2 * TRAINING.batch_size:
            raise OSError(5, "the disk is gone")
        return super().take(partition, count)


def meet_a_batch_that_cannot_be_read(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> tuple[str, str]:
    examples = half(dataset, ranks)
    if ranks.rank == 1:
        examples.__class__ = BrokenExamples
    run = run_over(dataset, examples, ranks, TRAINING)
    return raised_by(ranks, lambda: list(run.steps()))


def meet_a_torn_bucket(ranks: Collectives, dataset: PreparedDataset, directory: str) -> tuple[str, str]:
    torn = Path(directory) / f"torn-{ranks.rank}"
    shutil.copytree(dataset.directory.uri, torn)
    (torn / "sequences/train/bucket-00003.parquet").write_bytes(b"PAR1")
    broken = PreparedDataset.open(str(torn))
    return raised_by(ranks, lambda: list(run_over(broken, half(broken, ranks), ranks, TRAINING).steps()))


def meet_a_disk_that_takes_no_version(ranks: Collectives, dataset: PreparedDataset, directory: str) -> tuple[str, str]:
    run = run_over(dataset, half(dataset, ranks), ranks, TRAINING)
    place = Path(directory) / f"version-{ranks.rank}"
    if ranks.rank == 1:
        place.write_text("no directory")
    return raised_by(ranks, lambda: run.save(Directory.at(place)))


FAULTS = {
    meet_a_broken_row_gradient: ("TrainingError", "step 1: the gradient is not finite, first in item rows"),
    meet_a_batch_that_cannot_be_read: ("TrainingError", "OSError: [Errno 5] the disk is gone"),
    meet_a_torn_bucket: ("DatasetError", "torn-1/sequences/train/bucket-00003.parquet: missing or torn"),
    meet_a_disk_that_takes_no_version: ("TrainingError", "NotADirectoryError"),
}


@pytest.mark.parametrize("work", FAULTS)
def test_a_fault_on_one_rank_is_raised_by_all_of_them_at_once(work: Callable[..., Any], results: Path) -> None:
    kind, cause = FAULTS[work]
    for found, message in of_both(results, work):
        assert found == kind
        assert message.startswith("worker 1 of 2: ")
        assert cause in message


def share_a_batch(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> tuple[list[int], str]:
    config = dataclasses.replace(TRAINING, batch_size=7, max_steps=3)
    reports = list(run_over(dataset, half(dataset, ranks), ranks, config).steps())
    one = dataclasses.replace(TRAINING, batch_size=1)
    with pytest.raises(ConfigError) as raised:
        run_over(dataset, half(dataset, ranks), ranks, one)
    return [report.num_examples for report in reports], str(raised.value)


def test_a_batch_is_shared_by_the_ranks(results: Path) -> None:
    for num_examples, refusal in of_both(results, share_a_batch):
        assert num_examples == [7, 7, 7]
        assert "a step has 1 examples (windows, or events) for 2 workers" in refusal


def stop_when_one_is_asked(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> list[int]:
    run = run_over(dataset, parquet_examples(dataset, TRAINING, partitions=[ranks.rank]), ranks, TRAINING)
    asked: Iterator[bool] = iter([False, ranks.rank == 1])
    return [report.step for report in run.steps(lambda: next(asked))]


def test_all_ranks_end_at_the_same_step_when_one_is_asked_to_stop(results: Path) -> None:
    assert of_both(results, stop_when_one_is_asked) == [[1, 2], [1, 2]]


def save_when_one_is_asked(ranks: Collectives, dataset: PreparedDataset, _directory: str) -> list[bool]:
    config = dataclasses.replace(TRAINING, max_steps=3)
    run = run_over(dataset, parquet_examples(dataset, config, partitions=[ranks.rank]), ranks, config)
    asked: Iterator[bool] = iter([False, ranks.rank == 1, False])
    return [report.is_save_due for report in run.steps(should_save=lambda: next(asked))]


def test_all_ranks_are_told_of_a_save_at_the_step_at_which_one_asks_for_it(results: Path) -> None:
    assert of_both(results, save_when_one_is_asked) == [[False, True, False]] * 2
