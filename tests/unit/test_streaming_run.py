"""A run on a log without end: it goes on after what a version knows, takes up new items, and asks before it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import TrainingConfig
from mind_dist.dataset.item_catalog import FEATURE_VALUES, ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.ahead import ask_ahead
from mind_dist.examples.batches import Batch
from mind_dist.examples.events import EventExamples
from mind_dist.examples.new_items import NewItems
from mind_dist.examples.source import Examples
from mind_dist.keys import IdType, id_key
from mind_dist.log.codec import PoisonGate, encode_event, encode_history, encode_key
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.publishing.item_columns import item_columns
from mind_dist.records import no_keys
from mind_dist.storage import Directory
from mind_dist.training.collectives import SingleRank
from mind_dist.training.live_catalog import LiveCatalog
from mind_dist.training.progressive import Found, ProgressiveValidation
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import Look
from tests.toy_training import FROM_LOG, MODEL, event_examples, open_run, parquet_examples, toy_log, write_dataset

DAY_MS = 86_400_000
START_MS = 1_600_000_000_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset"), priced=True))


def save(run: TrainingRun, path: Path) -> ModelVersion:
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


def finish(
    run: TrainingRun, path: Path, before_step: Callable[[int, Batch], None] = lambda _step, _batch: None
) -> ModelVersion:
    for _ in run.steps(before_step=before_step):
        pass
    return save(run, path)


def a_log(events: Sequence[tuple[int, int | str, int]], id_type: IdType = "int64") -> InMemoryLog:
    """Return a log of (user, item, time) in one partition."""
    log = InMemoryLog(num_partitions=1)
    for user, item, time_ms in events:
        outside = user if id_type == "int64" else f"u{user}"
        log.append(encode_key(outside), encode_event(outside, item, time_ms), 0)
    return log


def walks(
    first_item: int, num_items: int, start_ms: int, *, num_users: int = 8, step_ms: int = 1000
) -> list[tuple[int, int, int]]:
    """Return users who go round some items, all in turns."""
    return [
        (user, first_item + (user + turn) % num_items, start_ms + (turn * num_users + user) * step_ms)
        for turn in range(12)
        for user in range(1, num_users + 1)
    ]


def live(
    log: InMemoryLog, dataset: PreparedDataset, version: ModelVersion | None = None, **training: Any
) -> TrainingRun:
    config: TrainingConfig = dataclasses.replace(FROM_LOG, **training)
    return open_run(
        event_examples(log, version, dataset=dataset),
        dataset,
        version,
        observe=True,
        model=dataset.manifest.fit(MODEL),
        config=config,
    )


def test_events_that_a_version_was_trained_on_are_history_and_no_examples() -> None:
    events = walks(1, 5, START_MS)
    log = a_log(events)
    until_ms = events[40][2]
    source = event_examples(log, known_until_ms=until_ms)
    found = source.take(0, 1000)
    assert len(found) == len(events) - 41
    assert found.timestamps_ms.min() == events[41][2]
    assert source.num_known == 41
    first_of_last_user = found.history[0][found.history_mask[0]]
    user = events[41][0]
    assert (
        first_of_last_user.tolist() == [item for who, item, _ in events[:41] if who == user][-len(first_of_last_user) :]
    )


def test_a_dataset_s_watermark_is_its_newest_trained_event_and_a_stream_goes_on_behind_it(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    of_dataset = finish(
        open_run(parquet_examples(dataset, FROM_LOG), dataset, model=dataset.manifest.fit(MODEL), config=FROM_LOG),
        tmp_path / "first",
    )
    times = [
        int(time)
        for bucket in range(4)
        for row in dataset.read_bucket("train", bucket)["timestamps_ms"]
        for time in row.as_py()[1:]
    ]
    assert of_dataset.manifest.watermark_ms == max(times)
    log = toy_log()
    source = event_examples(log, known_until_ms=of_dataset.manifest.watermark_ms)
    assert not any(len(source.take(partition, 1000)) for partition in source.partitions), "it has seen all of them"


def test_how_many_events_were_known_is_counted_across_a_resume(dataset: PreparedDataset, tmp_path: Path) -> None:
    events = walks(1, 5, START_MS)
    log = a_log(events)

    def opened(version: ModelVersion | None) -> TrainingRun:
        examples = event_examples(log, version, dataset=dataset, known_until_ms=events[30][2])
        return open_run(
            examples,
            dataset,
            version,
            observe=True,
            model=dataset.manifest.fit(MODEL),
            config=FROM_LOG,
            known_until_ms=events[30][2],
        )

    run = opened(None)
    for report in run.steps():
        if report.step == 2:
            break
    stopped = save(run, tmp_path / "stopped")
    whole = finish(opened(stopped), tmp_path / "whole")
    assert stopped.manifest.metrics["num_known_events"] == whole.manifest.metrics["num_known_events"] == 31
    assert whole.manifest.known_until_ms == events[30][2]


def test_items_that_a_log_brings_are_in_the_catalog_and_have_vectors(dataset: PreparedDataset, tmp_path: Path) -> None:
    version = finish(live(a_log(walks(900, 5, START_MS)), dataset), tmp_path / "version")
    catalog, known = version.catalog(), dataset.catalog()
    assert np.setdiff1d(catalog.keys, known.keys).tolist() == [900, 901, 902, 903, 904]
    assert catalog.table.filter(pa.compute.less(catalog.table["item_id"], 900)).equals(known.table)
    assert catalog.counts[catalog.keys >= 900].sum() == 8 * 11, "each event but a user's first is a target"
    assert np.isnan(catalog.feature_values[catalog.keys >= 900]).all()
    encoder = InterestEncoder(version)
    assert set(range(900, 905)) <= set(encoder.item_keys.tolist())
    [ids] = item_columns(encoder.catalog, encoder.item_keys, "string").values()
    assert ids[-5:] == ["900", "901", "902", "903", "904"]


def test_outside_ids_of_items_that_a_log_brings_are_kept_across_resumes(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    events = [(user, f"film {item}", time_ms) for user, item, time_ms in walks(1, 6, START_MS)]
    log = a_log(events, "string")
    log.append(encode_key("u1"), encode_history("u1", [["told", START_MS]]), 0)

    def opened(version: ModelVersion | None) -> TrainingRun:
        examples = EventExamples(
            lambda partition: InMemorySource(log, "training", [partition], 500),
            [0],
            "string",
            InMemoryDeadLetters(),
            PoisonGate(0.5, 100),
            max_behaviors=6,
            max_clock_skew_ms=0,
            item_keys=dataset.catalog().keys,
            profiles=dataset.profiles(),
            num_profile_features=1,
            positions=version.manifest.positions if version else None,
            histories={0: version.history(0)} if version else None,
        )
        return open_run(examples, dataset, version, observe=True, model=dataset.manifest.fit(MODEL), config=FROM_LOG)

    run = opened(None)
    next(run.steps())
    stopped = save(run, tmp_path / "stopped")
    whole = finish(opened(stopped), tmp_path / "whole")
    for version in (stopped, whole):
        new = version.catalog().table.filter(pa.array(dataset.catalog().rows(version.catalog().keys) < 0))
        ids = dict(zip(new["item_id"].to_pylist(), new["original_id"].to_pylist(), strict=True))
        assert ids == {id_key(name, "string"): name for name in ids.values()}
    assert set(ids.values()) == {f"film {item}" for item in range(1, 7)}


def test_outside_ids_are_kept_of_items_with_a_row_alone_and_told_again_of_those_that_get_one_later() -> None:
    items = NewItems(no_keys())

    def meet(name: str) -> None:
        items.add(encode_event("u1", name, 1), [id_key(name, "string")])

    catalog = LiveCatalog(ItemCatalog(ITEM_SCHEMA.empty_table()))
    for name in ("seen often", "seen once"):
        meet(name)
    catalog.add_names(items.told())
    often, once = (np.array([id_key(name, "string")]) for name in ("seen often", "seen once"))
    catalog.keep_names(often)
    assert not items.told()
    meet("seen once")
    catalog.add_names(items.told())
    keys = np.sort(np.concatenate([often, once]))
    ids = catalog.of(keys, np.ones(2, dtype=np.int64), without_others=False).table["original_id"].to_pylist()
    assert sorted(ids) == ["seen often", "seen once"]
    catalog.keep_names(often)
    assert len(catalog._names) == 1


def test_an_item_that_no_event_is_about_any_more_leaves_the_catalog_and_comes_back_with_one(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    old, new = walks(900, 5, START_MS), walks(950, 5, START_MS + 30 * DAY_MS)
    log = a_log([*old, *new, *walks(950, 5, START_MS + 45 * DAY_MS)])
    version = finish(live(log, dataset, keep_items_days=10), tmp_path / "new")
    assert version.catalog().keys.tolist() == list(range(950, 955)), "those of the dataset are as old"
    assert not set(version.items().keys.tolist()) & set(range(900, 905))
    assert InterestEncoder(version).item_keys.tolist() == list(range(950, 955))
    for user, item, time_ms in walks(900, 5, START_MS + 46 * DAY_MS):
        log.append(encode_key(user), encode_event(user, item, time_ms), 0)
    again = finish(live(log, dataset, version, keep_items_days=10), tmp_path / "again")
    assert again.catalog().keys.tolist() == [*range(900, 905), *range(950, 955)]
    assert finish(live(log, dataset), tmp_path / "kept").catalog().keys.tolist()[-10:] == again.catalog().keys.tolist()


def test_forgetting_items_does_not_depend_on_where_a_run_was_stopped(dataset: PreparedDataset, tmp_path: Path) -> None:
    events = [event for week in range(6) for event in walks(900 + 3 * week, 5, START_MS + 7 * week * DAY_MS)]
    log, settings = a_log(events), dict[str, Any](keep_items_days=15, admission_count=2)
    whole = finish(live(log, dataset, **settings), tmp_path / "whole")
    assert min(key for key in whole.catalog().keys) > 900
    run = live(log, dataset, **settings)
    for report in run.steps():
        if report.step == 17:
            break
    stopped = save(run, tmp_path / "stopped")
    resumed = finish(live(log, dataset, stopped, **settings), tmp_path / "resumed")
    assert resumed.manifest.files == whole.manifest.files


def test_a_catalog_of_a_dataset_alone_stays_as_it_is(dataset: PreparedDataset) -> None:
    known = dataset.catalog()
    none = known.keys[:0]
    assert LiveCatalog(known).of(none, none, without_others=False).table.equals(known.table.combine_chunks())
    assert FEATURE_VALUES in known.table.column_names


def test_events_are_asked_for_before_they_are_trained_on(dataset: PreparedDataset, tmp_path: Path) -> None:
    log = a_log(walks(1, 5, START_MS, num_users=12) * 1 + walks(1, 5, START_MS + DAY_MS, num_users=12))
    run, looks, asked = live(log, dataset, learning_rate=0.05), list[Look](), list[int]()

    def ask(version: Any, examples: Examples) -> tuple[float, float, float, float]:
        assert version.manifest.step == run.step
        asked.extend(examples.timestamps_ms.tolist())
        return len(examples), 1, 2, 2

    ahead = ProgressiveValidation(run, ask, 3, SingleRank(), looks.append)
    trained: list[int] = []

    def before_step(step: int, batch: Batch) -> None:
        ahead.before_step(step, batch)
        trained.append(step)

    version = finish(run, tmp_path / "version", before_step)
    assert [look.step for look in looks] == [step for step in trained if step % 3 == 0][1:]
    assert all(look.recall == pytest.approx(1 / 16) and look.recall_removed == 1 for look in looks[:-1])
    assert looks[0].metrics == {"progressive_recall@50": 1 / 16, "progressive_recall@50_removed": 1.0}
    assert len(set(asked)) == len(asked) > 0
    assert 0 < ahead.metrics["progressive_recall@50"] < 1
    plain = finish(live(log, dataset, learning_rate=0.05), tmp_path / "plain")
    assert plain.manifest.files == version.manifest.files, "what is asked changes nothing of what is learned"


def test_what_is_found_ahead_is_what_the_version_recommends(dataset: PreparedDataset, tmp_path: Path) -> None:
    log = a_log(walks(1, 5, START_MS))
    version = finish(live(log, dataset), tmp_path / "version")
    examples = event_examples(log, dataset=dataset).take(0, 1000)
    num, found, num_new, num_new_found = ask_ahead(version, examples)
    fresh = [
        bool(target[0] not in history[mask])
        for target, history, mask in zip(examples.targets, examples.history, examples.history_mask, strict=True)
    ]
    assert (num, num_new) == (len(examples), sum(fresh))
    assert found == num, "there are fewer than 50 items"
    assert num_new_found == num_new
    assert Found(num, found, num_new, num_new_found).recalls == (1.0, 1.0)
    assert ask_ahead(version, Examples.none(6, 1, 1)) == (0, 0, 0, 0)
