"""The benchmarks of how a run is trained: cut in time without a leak, and as long as they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import train_cell
from benchmarks.length import measure_length
from benchmarks.stream import go_on, timeline
from mind_dist.checkpoint import ModelVersion
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.log.codec import decode
from mind_dist.recipes import Recipe
from mind_dist.records import Event
from tests.toy_quality import write_quality_dataset
from tests.toy_training import FROM_LOG, MODEL, TRAINING

RECIPE = Recipe(
    dataclasses.replace(MODEL, num_profile_features=0),
    dataclasses.replace(TRAINING, epochs=0, batch_size=64, learning_rate=0.03),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_quality_dataset(tmp_path_factory.mktemp("dataset"), num_valid=40)


@pytest.mark.parametrize("has_times", [True, False])
def test_what_is_old_then_streamed_then_asked_for_is_each_users_whole_log(
    dataset: PreparedDataset, tmp_path: Path, *, has_times: bool
) -> None:
    cut = timeline(dataset, tmp_path, has_times=has_times)
    streamed: dict[int, list[int]] = {}
    times = []
    for record in cut.log.read(0, 0, 100_000):
        event = decode(record, "int64", max_clock_skew_ms=1 << 50)
        assert isinstance(event, Event)
        streamed.setdefault(event.user_key, []).append(event.item_key)
        times.append(event.timestamp_ms)
    histories = {history.sequence.user_key: history.sequence.item_keys.tolist() for history in cut.histories}
    everything = {user.user_key: user.item_keys.tolist() for user in cut.everything.sequences("train")}
    assert streamed
    assert {key: histories[key] + streamed.get(key, []) for key in everything} == everything
    assert {user.user_key: user.item_keys.tolist() for user in cut.old.sequences("train")} == {
        key: items for key, items in histories.items() if items
    }
    whole = {user.user_key: user.item_keys.tolist() for user in dataset.sequences("train")}
    for user in (*cut.valid, *cut.test):
        key = user.history.user_key
        asked = user.history.item_keys.tolist() + user.targets.tolist()
        assert asked == whole[key][: len(asked)]
    assert all(len(user.history) >= len(everything[user.history.user_key]) for user in cut.test)
    if has_times:
        assert times == sorted(times)
        assert max(times) < min(int(user.future.timestamps_ms.min()) for user in (*cut.valid, *cut.test))


def test_the_longer_run_has_three_times_the_steps_that_the_run_chose(dataset: PreparedDataset, tmp_path: Path) -> None:
    found = measure_length(dataset, RECIPE, 3, tmp_path / "version")
    assert found.further[-1].step == 3 * found.chosen[-1].step
    assert found.best <= found.best_of_all
    assert found.num_epochs == pytest.approx(found.chosen[-1].step / found.steps_per_epoch)
    assert np.diff([look.step for look in found.chosen + found.further]).min() > 0


def test_every_event_of_the_stream_is_trained_once(dataset: PreparedDataset, tmp_path: Path) -> None:
    cut = timeline(dataset, tmp_path, has_times=True)
    once = dataclasses.replace(RECIPE, training=dataclasses.replace(RECIPE.training, epochs=1))
    train_cell(cut.old, once, tmp_path / "version")
    go_on(cut, ModelVersion.open(str(tmp_path / "version")), FROM_LOG, tmp_path / "further")
    further = ModelVersion.open(str(tmp_path / "further")).manifest
    assert further.positions == {0: cut.log.end(0)}
    assert further.step == -(-cut.log.end(0) // FROM_LOG.batch_size), "every user has a history before it"
