"""Training in this process: it learns, stops with a name for what went wrong, and goes on as if never stopped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import (
    BestConfig,
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    FullSoftmaxConfig,
    GruConfig,
    HardConfig,
    LabelAwareConfig,
    LagKernelsConfig,
    MindConfig,
    ModelConfig,
    NegativesConfig,
    ObjectiveConfig,
    PenaltiesConfig,
    SampledConfig,
    TrainingConfig,
    TransformerConfig,
    TwoTowerConfig,
)
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder, UserInterests
from mind_dist.errors import TrainingError
from mind_dist.examples.batches import next_batch
from mind_dist.examples.source import Examples
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryLog
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.training.positions import TrainedPositions
from mind_dist.training.run import TrainingRun
from mind_dist.training.step_inputs import StepInputs
from tests.toy_training import MODEL, TRAINING, event_examples, open_run, parquet_examples, toy_log, write_dataset

Open = Callable[[ModelVersion | None], TrainingRun]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(write_dataset(tmp_path_factory.mktemp("dataset")))


def from_parquet(dataset: PreparedDataset, config: TrainingConfig = TRAINING, model: ModelConfig = MODEL) -> Open:
    return lambda version: open_run(
        parquet_examples(dataset, config, version), dataset, version, config=config, model=model
    )


def from_log(
    dataset: PreparedDataset, log: InMemoryLog, config: TrainingConfig = TRAINING, model: ModelConfig = MODEL
) -> Open:
    config = dataclasses.replace(config, admission_count=2)
    return lambda version: open_run(
        event_examples(log, version, dataset=dataset), dataset, version, observe=True, config=config, model=model
    )


@pytest.fixture(params=["parquet", "log"])
def opened(request: pytest.FixtureRequest, dataset: PreparedDataset) -> Open:
    return from_parquet(dataset) if request.param == "parquet" else from_log(dataset, toy_log(poison_every=11))


def save(run: TrainingRun, path: Path) -> ModelVersion:
    run.save(Directory.at(path))
    return ModelVersion.open(str(path))


def finish(run: TrainingRun, path: Path) -> ModelVersion:
    for _ in run.steps():
        pass
    return save(run, path)


CAUSAL = dataclasses.replace(MODEL, extraction=CausalConfig(), encoder=TransformerConfig(hidden_dim=8), dropout=0.3)
EVERYWHERE = dataclasses.replace(
    TRAINING,
    every_position=True,
    window_stride=2,
    negatives=SampledConfig(count=20, power=0.75),
    epochs=4,
    warm_start="cooccurrence",
)


@pytest.mark.parametrize("source", ["parquet", "log"])
@pytest.mark.parametrize(
    ("model", "config"), [(MODEL, TRAINING), (CAUSAL, EVERYWHERE)], ids=["mind", "causal with all that is random"]
)
def test_resume_after_a_crash_gives_the_same_version_as_an_uninterrupted_run(
    source: str, model: ModelConfig, config: TrainingConfig, dataset: PreparedDataset, tmp_path: Path
) -> None:
    if source == "parquet":
        opened = from_parquet(dataset, config, model)
    else:
        opened = from_log(dataset, toy_log(poison_every=11), config, model)
    whole = finish(opened(None), tmp_path / "whole")
    crashed = opened(None)
    saved_at = None
    for report in islice(crashed.steps(), 8):
        if report.step == 5:
            saved_at = save(crashed, tmp_path / "saved")
    resumed = finish(opened(saved_at), tmp_path / "resumed")
    assert resumed.manifest.step == whole.manifest.step > 8
    assert resumed.manifest.positions == whole.manifest.positions
    assert resumed.manifest.watermark_ms == whole.manifest.watermark_ms
    assert resumed.manifest.files == whole.manifest.files, "every parameter, moment, count and history is the same"
    assert resumed.manifest.model_version == whole.manifest.model_version


def test_a_log_trains_the_whole_history_before_an_event_whatever_is_asked_of_windows(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    plain = dataclasses.replace(EVERYWHERE, every_position=False)
    versions = [
        finish(from_log(dataset, toy_log(), config, CAUSAL)(None), tmp_path / str(config.every_position))
        for config in (EVERYWHERE, plain)
    ]
    assert versions[0].manifest.files == versions[1].manifest.files


def test_a_version_names_the_positions_of_the_last_trained_batch(opened: Open, tmp_path: Path) -> None:
    run = opened(None)
    *_, last = islice(run.steps(), 3)
    version = save(run, tmp_path)
    assert version.manifest.positions == last.positions
    assert version.manifest.step == 3
    assert version.manifest.metrics == {"loss": last.loss}
    assert version.manifest.watermark_ms > 0


def test_a_saved_run_that_is_complete_has_nothing_left_to_do(opened: Open, tmp_path: Path) -> None:
    version = finish(opened(None), tmp_path)
    assert not list(opened(version).steps())


def test_training_learns_which_items_belong_together(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, epochs=12)
    losses = [r.loss for r in open_run(parquet_examples(dataset, config), dataset, config=config).steps()]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_learning_rate_falls_to_zero_where_the_length_is_known(dataset: PreparedDataset) -> None:
    decayed = [r.learning_rate for r in from_parquet(dataset)(None).steps()]
    assert decayed[0] == TRAINING.learning_rate
    assert decayed == sorted(decayed, reverse=True)
    assert decayed[-1] == pytest.approx(TRAINING.learning_rate / len(decayed))
    constant = {r.learning_rate for r in from_log(dataset, toy_log())(None).steps()}
    assert constant == {TRAINING.learning_rate}


def test_max_steps_bounds_a_run_over_its_resumes(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINING, max_steps=4)

    def bounded(version: ModelVersion | None) -> TrainingRun:
        return open_run(parquet_examples(dataset, config, version), dataset, version, config=config)

    run = bounded(None)
    assert run.num_steps() == 4
    version = finish(run, tmp_path)
    assert version.manifest.step == 4
    assert not list(bounded(version).steps())


def test_a_stop_ends_the_run_after_the_step_under_way(opened: Open) -> None:
    run = opened(None)
    assert [report.step for report in run.steps(lambda: run.step == 2)] == [1, 2, 3]


def test_a_silent_log_does_nothing_and_can_be_stopped(dataset: PreparedDataset) -> None:
    log = InMemoryLog()
    run = open_run(event_examples(log, dataset=dataset, follow=True), dataset, observe=True)
    silence = iter([False, True])
    reports = list(run.steps(lambda: next(silence)))
    assert [(report.step, report.num_examples) for report in reports] == [(0, 0), (0, 0)]
    assert run.metrics == {}


def test_a_loss_that_is_not_finite_names_step_and_tensor(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = from_parquet(dataset)(None)
    steps = run.steps()
    next(steps)
    version = save(run, tmp_path)
    with torch.no_grad():
        next(run.model.head.parameters())[:] = torch.nan
    with pytest.raises(
        TrainingError, match=r"step 2: the loss is not finite, first in interests; .*checkpoint is kept"
    ):
        next(steps)
    assert ModelVersion.open(version.directory.uri).manifest.step == 1


def test_a_gradient_that_is_not_finite_names_its_parameter(dataset: PreparedDataset) -> None:
    run = from_parquet(dataset)(None)
    run.model.get_parameter("extraction.inner.bilinear").register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        TrainingError, match=r"step 1: the gradient is not finite, first in extraction\.inner\.bilinear"
    ):
        next(run.steps())


def test_a_warm_start_begins_with_the_parameters_of_a_version(dataset: PreparedDataset, tmp_path: Path) -> None:
    version = finish(from_parquet(dataset)(None), tmp_path / "first")
    run = from_parquet(dataset)(None)
    run.start_from(version)
    before = save(run, tmp_path / "warm")
    assert before.manifest.step == 0
    assert torch.equal(before.dense()["extraction.inner.bilinear"], version.dense()["extraction.inner.bilinear"])
    np.testing.assert_array_equal(before.items().vectors, version.items().vectors)
    first = next(iter(from_parquet(dataset)(None).steps())).loss
    assert next(run.steps()).loss < first


def test_bfloat16_trains_close_to_float32(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, precision="bfloat16")
    rounded = [r.loss for r in open_run(parquet_examples(dataset, config), dataset, config=config).steps()]
    exact = [r.loss for r in from_parquet(dataset)(None).steps()]
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    assert all(math.isfinite(loss) for loss in rounded)


def test_without_logq_the_loss_is_another(dataset: PreparedDataset) -> None:
    config = dataclasses.replace(TRAINING, negatives=SampledConfig(count=20, logq="none"))
    plain = next(iter(open_run(parquet_examples(dataset, config), dataset, config=config).steps()))
    assert plain.loss != next(iter(from_parquet(dataset)(None).steps())).loss


def first_loss(dataset: PreparedDataset, **changed: Any) -> float:
    """Return the loss of the first step, before anything was updated."""
    config = dataclasses.replace(TRAINING, **changed)
    return next(from_parquet(dataset, config)(None).steps()).loss


@pytest.mark.parametrize("objective", [HardConfig(), BestConfig()], ids=lambda each: each.kind)
def test_the_full_softmax_is_the_loss_computed_by_hand(
    objective: ObjectiveConfig, dataset: PreparedDataset, tmp_path: Path
) -> None:
    """By hand: from the interests and item vectors that a version serves, which training then goes on from."""
    changed: dict[str, Any] = {"negatives": FullSoftmaxConfig(), "objective": objective}
    version = finish(from_parquet(dataset)(None), tmp_path)
    run = from_parquet(dataset, dataclasses.replace(TRAINING, **changed))(None)
    run.start_from(version)
    encoder = InterestEncoder(version)
    examples = next_batch(parquet_examples(dataset, TRAINING), TRAINING.batch_size).examples
    losses = []
    for row, mask in enumerate(examples.history_mask):
        items = examples.history[row][mask]
        user = BehaviorSequence(1, items, np.arange(len(items)), examples.profile[row])
        scores = encoder.encode([user])[0].vectors @ encoder.item_vectors.T / TRAINING.temperature
        targets = np.searchsorted(encoder.item_keys, examples.targets[row][examples.target_mask[row]])
        for target in targets:
            seen = scores.max(axis=0) if objective.kind == "best" else scores[scores[:, target].argmax()]
            others = np.delete(np.exp(seen), targets).sum()
            losses.append(math.log(math.exp(seen[target]) + others) - seen[target])
    assert next(run.steps()).loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("negatives", [SampledConfig(count=20), FullSoftmaxConfig()], ids=lambda each: each.kind)
def test_hard_negatives_of_no_weight_leave_the_plain_loss(negatives: NegativesConfig, dataset: PreparedDataset) -> None:
    plain, none, hardly, hard = (
        first_loss(dataset, negatives=dataclasses.replace(negatives, hard_beta=beta)) for beta in (0.0, 0.0, 1e-6, 1.0)
    )
    assert plain == none == pytest.approx(hardly, rel=1e-5)
    assert hard > plain


@pytest.mark.parametrize("weight", ["spread_weight", "balance_weight", "routing_weight"])
def test_a_regulariser_adds_to_the_loss_in_proportion_to_its_weight(weight: str, dataset: PreparedDataset) -> None:
    model = dataclasses.replace(MODEL, extraction=ComirecSaConfig(), adaptive_interests=False)
    weighted: list[dict[str, Any]] = [{"penalties": PenaltiesConfig(**{weight: value})} for value in (0.0, 5.0, 10.0)]
    plain, once, twice = (
        next(from_parquet(dataset, dataclasses.replace(TRAINING, **changed), model)(None).steps()).loss
        for changed in weighted
    )
    assert once != plain  # an unbiased estimate of how unevenly interests win may be below 0
    assert twice - plain == pytest.approx(2 * (once - plain), rel=1e-2)


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two_tower": ({"extraction": TwoTowerConfig(), "num_interests": 1}, {}),
    "two_tower by attention": (
        {"extraction": TwoTowerConfig(pooling="attention"), "num_interests": 1, "encoder": LagKernelsConfig()},
        {"every_position": True, "negatives": SampledConfig(count=20, power=0.5)},
    ),
    "mind": ({}, {"every_position": True}),
    "mind from far points": (
        {"extraction": MindConfig(start="farthest_point", recency=200)},
        {"objective": BestConfig()},
    ),
    "comirec_dr": ({"extraction": ComirecDrConfig(), "encoder": GruConfig()}, {"window_stride": 2}),
    "comirec_sa": (
        {"extraction": ComirecSaConfig(recency=200), "hidden_dims": ()},
        {
            "penalties": PenaltiesConfig(routing_weight=0.1, spread_weight=0.1, balance_weight=0.1),
            "negatives": SampledConfig(count=20, hard_beta=0.5),
        },
    ),
    "causal": (
        {"extraction": CausalConfig()},
        {"every_position": True, "negatives": SampledConfig(count=20, in_batch=False)},
    ),
    "causal, lag_kernels": (
        {"extraction": CausalConfig(), "encoder": LagKernelsConfig(), "separate_item_vectors": True},
        {"every_position": True, "objective": BestConfig(), "negatives": FullSoftmaxConfig()},
    ),
    "causal, gru": (
        {"extraction": CausalConfig(), "encoder": GruConfig(), "normalize": False},
        {
            "temperature": 1.0,
            "warm_start": "cooccurrence",
            "objective": LabelAwareConfig(power=2.0),
            "negatives": SampledConfig(count=20, distribution="log_uniform", logq="all", in_batch=False),
        },
    ),
    "causal, transformer": (
        {"extraction": CausalConfig(), "encoder": TransformerConfig(), "dropout": 0.1},
        {"every_position": True, "window_stride": 3, "negatives": SampledConfig(count=20, power=1.0)},
    ),
}


def by_training(run: TrainingRun, dataset: PreparedDataset, users: list[BehaviorSequence]) -> list[UserInterests]:
    """Return the interests that the model in training gives users, by the way that a step takes."""
    longest = TRAINING.max_behaviors
    newest = [user.last(longest) for user in users]
    history = np.array([[*user.item_keys, *[0] * (longest - len(user))] for user in newest], dtype=np.int64)
    mask = np.arange(longest) < np.array([len(user) for user in newest])[:, None]
    profile = np.array([user.profile_keys for user in users])
    one = np.ones((len(users), 1), dtype=np.int64)
    examples = Examples(history, mask, one * history[0, 0], one > 0, profile, one[:, 0])
    nothing: Keys = np.zeros(0, dtype=np.int64)
    inputs = StepInputs.of(examples, TrainedPositions.after_window(examples), nothing, run.table, dataset.catalog())
    (rows, _), model = run.table.lookup(inputs.row_keys), run.model.eval()
    with torch.no_grad():
        behaviors = inputs.behaviors(model.item_tower(rows, inputs.parts)[:, : MODEL.dim], rows[:, : MODEL.dim])
        found = model(behaviors, inputs.profiles(rows[:, : MODEL.dim]), ends=inputs.ends)
    return [
        UserInterests(vectors[real].numpy(), weights[real].numpy())
        for vectors, real, weights in zip(found.vectors, found.mask, found.weights, strict=True)
    ]


@pytest.mark.parametrize(("model", "training"), KINDS.values(), ids=KINDS.keys())
def test_every_kind_of_model_learns_and_encodes_users_as_it_was_trained(
    model: dict[str, Any], training: dict[str, Any], dataset: PreparedDataset, tmp_path: Path
) -> None:
    config = dataclasses.replace(TRAINING, epochs=training.get("window_stride", 1) * 6, learning_rate=0.02, **training)
    run = from_parquet(dataset, config, dataclasses.replace(MODEL, **model))(None)
    losses = [report.loss for report in run.steps()]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    encoder = InterestEncoder.load(save(run, tmp_path).directory.uri)
    users = list(dataset.sequences("train"))
    for found, expected in zip(encoder.encode(users), by_training(run, dataset, users), strict=True):
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-5)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)


def test_items_seen_too_seldom_wait_and_are_learned_by_their_features(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINING, admission_count=1000)
    run = open_run(event_examples(toy_log(), dataset=dataset), dataset, observe=True, config=config)
    losses = [report.loss for report in run.steps()]
    version = save(run, tmp_path)
    assert all(math.isfinite(loss) for loss in losses)
    assert run.table.num_items == 0
    assert not (version.items().counts > 0).any()
    assert set(dataset.catalog().feature_keys) <= set(version.items().keys)
    assert len(version.waiting().keys) > 10


def test_positions_are_committed_only_when_asked(dataset: PreparedDataset) -> None:
    log = toy_log()
    run = open_run(event_examples(log, dataset=dataset), dataset, observe=True)
    (*_, last) = run.steps()
    assert log.stored("training", range(4)) == {}
    run.commit()
    assert log.stored("training", range(4)) == last.positions


def test_events_of_other_types_are_counted_in_the_version_across_a_resume(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    log = InMemoryLog()
    for place in range(60):
        user, kind = 1 + place % 3, "buy" if place % 4 else "seen"
        log.append(encode_key(user), encode_event(user, 1 + place % 20, place, kind))

    def opened(version: ModelVersion | None) -> TrainingRun:
        examples = event_examples(log, version, dataset=dataset, event_types=("buy",))
        return open_run(examples, dataset, version, observe=True)

    whole = finish(opened(None), tmp_path / "whole")
    stopped = opened(None)
    next(iter(stopped.steps()))
    resumed = finish(opened(save(stopped, tmp_path / "stopped")), tmp_path / "resumed")
    assert whole.manifest.metrics["num_ignored_events"] == 15
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert 0 < ModelVersion.open(str(tmp_path / "stopped")).manifest.metrics["num_ignored_events"] < 15
