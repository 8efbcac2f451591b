"""What events say beside user, item and time: read in training from either side, learned, saved, and encoded the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import CausalConfig, ModelConfig, TransformerConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import BASE_USERS, InterestEncoder, UserInterests
from mind_dist.errors import ConfigError
from mind_dist.examples.batches import next_batch
from mind_dist.examples.source import Examples
from mind_dist.keys import EventFeatures, behavior_key, context_key, no_context, value_text
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.training.positions import TrainedPositions
from mind_dist.training.run import TrainingRun
from mind_dist.training.settings import TrainSettings, check_dataset
from mind_dist.training.step_inputs import StepInputs
from tests.toy_training import (
    MODEL,
    READ,
    READING,
    TRAINING,
    event_examples,
    open_run,
    parquet_examples,
    toy_log,
    values_at,
    write_dataset,
)

Open = Callable[[ModelVersion | None], TrainingRun]

CAUSAL = dataclasses.replace(READING, extraction=CausalConfig(), encoder=TransformerConfig(hidden_dim=8))
LATE = dataclasses.replace(TRAINING, epochs=3, window_stride=2, num_targets=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset"), told=True))


def opened(dataset: PreparedDataset, source: str, model: ModelConfig = READING, every: bool = False) -> Open:
    config = dataclasses.replace(LATE, every_position=every)
    if source == "parquet":
        return lambda version: open_run(
            parquet_examples(dataset, config, version, features=READ), dataset, version, config=config, model=model
        )
    log = toy_log(poison_every=11, told=True)
    return lambda version: open_run(
        event_examples(log, version, dataset=dataset, features=READ),
        dataset,
        version,
        observe=True,
        config=config,
        model=model,
    )


def finish(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


def said(time_ms: int) -> tuple[list[int], list[int]]:
    """Return the keys of what an event says: of itself, and of its moment."""
    texts = {name: value_text(value) for name, value in values_at(time_ms).items()}
    kinds = [behavior_key(name, texts[name]) for name in READ.behavior]
    return kinds, [context_key(name, texts[name]) for name in READ.context]


def test_a_dataset_gives_each_behavior_what_its_event_said(dataset: PreparedDataset) -> None:
    for user in dataset.sequences("train"):
        expected = [said(time) for time in user.timestamps_ms.tolist()]
        assert user.behavior_keys.tolist() == [kinds for kinds, _ in expected]
        assert user.moment_keys.tolist() == [moment for _, moment in expected]
    fewer = next(dataset.sequences("train", features=EventFeatures(context=("hour", "event_type"))))
    first_ms = int(fewer.timestamps_ms[0])
    assert fewer.behavior_keys.shape == (len(fewer), 0)
    assert fewer.moment_keys[0].tolist() == [
        said(first_ms)[1][1],
        context_key("event_type", "buy" if first_ms % 3 == 0 else "view"),
    ]


def test_windows_of_a_dataset_say_what_each_event_said(dataset: PreparedDataset) -> None:
    users = {tuple(user.item_keys.tolist()): user for user in dataset.sequences("train")}
    examples = next_batch(parquet_examples(dataset, LATE, features=READ), 30).examples
    assert len(examples) > 10
    for row in range(len(examples)):
        before, after = examples.history_mask[row], examples.target_mask[row]
        items = (*examples.history[row][before].tolist(), *examples.targets[row][after].tolist())
        (times,) = {
            tuple(user.timestamps_ms[at : at + len(items)].tolist())
            for all_items, user in users.items()
            for at in range(len(all_items))
            if all_items[at : at + len(items)] == items and examples.timestamps_ms[row] in user.timestamps_ms[at:]
        }
        expected = [said(time) for time in times]
        count = int(before.sum())
        assert examples.behavior_keys[row][before].tolist() == [kinds for kinds, _ in expected[:count]]
        assert not examples.behavior_keys[row][~before].any()
        assert examples.history_moments[row][before].tolist() == [moment for _, moment in expected[:count]]
        assert examples.target_moments[row][after].tolist() == [moment for _, moment in expected[count:]]


def test_examples_of_a_log_say_what_each_event_said() -> None:
    examples = next_batch(event_examples(toy_log(told=True), features=READ), 60).examples
    assert len(examples) > 10
    for row in range(len(examples)):
        _, moment = said(int(examples.timestamps_ms[row]))
        assert examples.target_moments[row].tolist() == [moment]
        assert examples.behavior_keys[row][examples.history_mask[row]].all()
        assert not examples.behavior_keys[row][~examples.history_mask[row]].any()


def test_interests_are_asked_for_in_the_context_of_the_first_target_or_in_none() -> None:
    home, work, nothing = (np.array(keys) for keys in ([11, 21], [12, 22], [10, 20]))
    moments = np.array([[[home, work, home], [work, work, [13, 22]], [home, home, work]]])
    targets = np.arange(1, 10).reshape(1, 3, 3)
    trained = TrainedPositions(np.array([[0, 1, 2]]), targets, targets != 9, moments)
    told = np.array([[True, True, False]])
    found = trained.in_contexts(told, nothing, lambda keys: keys != 22)
    assert found.contexts.tolist() == [[[11, 21], [12, 20], [10, 20]]]
    assert found.mask.tolist() == [[[True, False, True], [True, True, False], [True, True, False]]]


def test_every_position_has_the_moments_of_what_followed_it() -> None:
    keys = np.arange(1, 6)[None]
    examples = Examples(
        keys[:, :3],
        np.array([[True, True, False]]),
        keys[:, 3:],
        np.array([[True, True]]),
        np.zeros((1, 0), np.int64),
        np.zeros(1, np.int64),
        np.zeros((1, 3, 0), np.int64),
        keys[:, :3, None] * 10,
        keys[:, 3:, None] * 10,
    )
    found = TrainedPositions.every(examples)
    assert found.targets[found.mask].tolist() == [2, 4, 4, 5]
    assert found.moments[found.mask][:, 0].tolist() == [20, 40, 40, 50]


@pytest.mark.parametrize("source", ["parquet", "log"])
def test_resume_goes_on_with_what_events_said(source: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    open_run_at = opened(dataset, source, CAUSAL, every=source == "parquet")
    whole = finish(open_run_at(None), tmp_path / "whole")
    begun = open_run_at(None)
    for _ in zip(range(4), begun.steps(), strict=False):
        pass
    begun.save(Directory.at(tmp_path / "begun"))
    resumed = finish(open_run_at(ModelVersion.open(str(tmp_path / "begun"))), tmp_path / "resumed")
    assert resumed.manifest.step == whole.manifest.step > 6
    assert np.array_equal(resumed.items().keys, whole.items().keys)
    assert resumed.items().vectors.tobytes() == whole.items().vectors.tobytes()
    for name, tensor in whole.dense().items():
        assert torch.equal(resumed.dense()[name], tensor), name


@pytest.fixture(scope="module")
def version(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return finish(opened(dataset, "parquet", every=True)(None), tmp_path_factory.mktemp("version"))


def asked(users: list[BehaviorSequence]) -> list[BehaviorSequence]:
    """Return the users, every other one asked in the context of the first behavior."""
    return [
        dataclasses.replace(user, context_keys=user.moment_keys[0]) if place % 2 else user
        for place, user in enumerate(users)
    ]


def by_training(run: TrainingRun, dataset: PreparedDataset, users: list[BehaviorSequence]) -> list[UserInterests]:
    """Return the interests that the model in training gives users, by the way that a step takes."""
    found, nothing = [], no_context(READ.context)
    for user in (each.last(LATE.max_behaviors) for each in users):
        context = user.context_keys if len(user.context_keys) else nothing
        real = np.ones((1, len(user)), dtype=np.bool_)
        examples = Examples(
            user.item_keys[None],
            real,
            user.item_keys[None, :1],
            real[:, :1],
            user.profile_keys[None],
            np.zeros(1, np.int64),
            user.behavior_keys[None],
            user.moment_keys[None],
            context[None, None],
        )
        drawn: Keys = np.zeros(0, dtype=np.int64)
        trained = TrainedPositions.after_window(examples).in_contexts(np.ones((1, 1), np.bool_), nothing, run.table.has)
        inputs = StepInputs.of(examples, trained, drawn, run.table, dataset.catalog())
        (rows, _), network = run.table.lookup(inputs.row_keys), run.model.eval()
        with torch.no_grad():
            behaviors = inputs.behaviors(network.item_tower(rows, inputs.parts), rows)
            interests = network(behaviors, inputs.profiles(rows), inputs.contexts(rows), inputs.ends)
        mask = interests.mask[0]
        found.append(UserInterests(interests.vectors[0][mask].numpy(), interests.weights[0][mask].numpy()))
    return found


def test_users_are_encoded_as_they_are_trained(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = opened(dataset, "parquet")(None)
    encoder = InterestEncoder(finish(run, tmp_path))
    users = asked(list(dataset.sequences("train")))
    for found, expected in zip(encoder.encode(users), by_training(run, dataset, users), strict=True):
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-5)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)


def test_a_user_in_a_context_has_bit_equal_interests_whoever_else_is_encoded(
    version: ModelVersion, dataset: PreparedDataset
) -> None:
    encoder = InterestEncoder(version)
    users = asked(list(dataset.sequences("train"))) * 2
    assert len(users) > BASE_USERS
    together = encoder.encode(users)
    for place in np.random.default_rng(1).permutation(len(users))[:12]:
        assert encoder.encode([users[place]])[0].vectors.tobytes() == together[place].vectors.tobytes()


def test_what_an_event_says_and_the_context_change_interests_and_what_is_unknown_does_not(
    version: ModelVersion, dataset: PreparedDataset
) -> None:
    encoder = InterestEncoder(version)
    user = max(dataset.sequences("train"), key=len)
    bought = np.full((len(user), 1), behavior_key("event_type", "buy"))
    strange = np.full((len(user), 1), behavior_key("event_type", "rent"))
    home, moon = (np.array([context_key("place", each), context_key("hour", None)]) for each in ("home", "moon"))

    def vectors(**changes: Any) -> bytes:
        return encoder.encode([dataclasses.replace(user, **changes)])[0].vectors.tobytes()

    nothing: Keys = np.empty((0, 0), np.int64)
    assert vectors(behavior_keys=bought) != vectors()
    assert vectors(behavior_keys=strange) == vectors(behavior_keys=nothing) != vectors(behavior_keys=bought)
    assert vectors(context_keys=home) != vectors()
    assert vectors(context_keys=moon) == vectors(context_keys=no_context(READ.context)) == vectors()


def test_keys_of_another_number_of_features_are_refused(version: ModelVersion, dataset: PreparedDataset) -> None:
    encoder, user = InterestEncoder(version), next(dataset.sequences("train"))
    two = dataclasses.replace(user, behavior_keys=np.zeros((len(user), 2), np.int64))
    with pytest.raises(ValueError, match=r"has behavior keys of shape .* the model has 1 behavior features"):
        encoder.encode([two])
    with pytest.raises(ValueError, match="has 1 context keys, the model has 2 context features"):
        encoder.encode([dataclasses.replace(user, context_keys=np.zeros(1, np.int64))])


@pytest.mark.parametrize("kind", ["behavior", "context"])
def test_a_model_cannot_read_what_the_dataset_does_not_have(dataset: PreparedDataset, kind: str) -> None:
    names: dict[str, Any] = {f"{kind}_features": ("event_type" if kind == "behavior" else "place", "browser")}
    model = dataclasses.replace(MODEL, **names)
    settings = TrainSettings(dataset.directory.uri, "runs", model=model)
    with pytest.raises(ConfigError, match=f"model.{kind}_features: .* has no browser: prepare it with log.{kind}"):
        check_dataset(settings)
