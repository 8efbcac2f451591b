"""What a step computes on: unknown items leave nothing behind, padding is cut, and everything is found where it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mind_dist.config import CausalConfig, ComirecDrConfig, ModelConfig, TransformerConfig
from mind_dist.examples.source import Examples
from mind_dist.model.interests import Interests
from mind_dist.model.item_tower import ItemTower
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import Keys
from mind_dist.training.item_table import ItemTable
from mind_dist.training.positions import TrainedPositions
from mind_dist.training.step_inputs import StepInputs

DIM, NUM_ITEMS, STRANGE, PROFILE = 8, 20, 900, 500
MODELS = {
    "mind": ModelConfig(dim=DIM, num_interests=3, num_profile_features=1),
    "comirec_dr": ModelConfig(ComirecDrConfig(), dim=DIM, num_interests=3, num_profile_features=1),
    "transformer": ModelConfig(CausalConfig(), TransformerConfig(), dim=DIM, num_profile_features=1),
}


@dataclass(frozen=True)
class NoFeatures:
    feature_offsets: Keys
    feature_keys: Keys
    feature_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros((NUM_ITEMS, 0), np.float32))

    def rows(self, keys: Keys) -> Keys:
        return np.full(len(keys), -1)


FEATURES = NoFeatures(np.zeros(1, np.int64), np.zeros(0, np.int64))


@pytest.fixture
def table() -> ItemTable:
    """Return a table of the items 1 to NUM_ITEMS and of two profile values."""
    table = ItemTable(DIM, seed=1)
    table.set_counts(np.arange(1, NUM_ITEMS + 1), np.ones(NUM_ITEMS, dtype=np.int64), seen_ms=0)
    table.add_features(np.array([PROFILE, PROFILE + 1]))
    return table


def window(history: list[int], targets: list[int], *, longest: int = 12, profile: int = PROFILE) -> Examples:
    def padded(items: list[int], width: int) -> Keys:
        return np.array([items + [0] * (width - len(items))], dtype=np.int64)

    keys, wanted = padded(history, longest), padded(targets, 3)
    masks = [np.arange(width) < len(items) for items, width in ((history, longest), (targets, 3))]
    return Examples(keys, masks[0][None], wanted, masks[1][None], np.array([[profile]]), np.zeros(1, np.int64))


def inputs_of(table: ItemTable, examples: Examples, **options: Any) -> StepInputs:
    every, negatives = options.pop("every", False), options.pop("negatives", np.array([3, 5, 5, STRANGE]))
    trained = TrainedPositions.every(examples) if every else TrainedPositions.after_window(examples)
    keys, real = trained.events
    shared = keys[real] if options.pop("in_batch", True) else None
    return StepInputs.of(examples, trained, negatives, table, FEATURES, shared=shared, **options)


def interests_of(config: ModelConfig, table: ItemTable, inputs: StepInputs) -> Interests:
    torch.manual_seed(0)
    model = MultiInterestModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rows, _ = table.lookup(inputs.row_keys)
    behaviors = inputs.behaviors(model.item_tower(rows, inputs.parts), rows)
    found: Interests = model(behaviors, inputs.profiles(rows), ends=inputs.ends)
    return found


def told(inputs: StepInputs) -> list[list[int]]:
    """Return the item keys that each end is told, of the real targets."""
    return [
        inputs_keys(inputs, row[mask].tolist()) for row, mask in zip(inputs.targets, inputs.target_mask, strict=True)
    ]


def inputs_keys(inputs: StepInputs, targeted: list[int]) -> list[int]:
    """Return the keys of targeted items: their rows are their own keys' here, as there are no features."""
    members = inputs.parts.bags.members[inputs.targeted[targeted], 0]
    return [int(key) for key in inputs.row_keys[members.numpy()]]


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("every", [True, False])
def test_unknown_items_leave_no_gap(config: ModelConfig, every: bool, table: ItemTable) -> None:
    known = [4, 7, 1, 9, 9, 2, 11]
    with_gaps = [STRANGE, 4, 7, STRANGE, STRANGE + 1, 1, 9, 9, 2, STRANGE, 11, STRANGE]
    plain = inputs_of(table, window(known, [3, 5]), every=every)
    gaps = inputs_of(table, window(with_gaps, [STRANGE, 3, 5]), every=every)
    assert gaps.history_keys[gaps.history_mask].tolist() == known
    expected, found = (interests_of(config, table, inputs) for inputs in (plain, gaps))
    real = [ends.ends.flatten() >= 0 for ends in (plain, gaps)]
    by_end = dict(zip(plain.ends.flatten()[real[0]].tolist(), expected.vectors[real[0]], strict=True))
    assert gaps.ends.flatten()[real[1]].max() == plain.ends.max()
    for end, vectors in zip(gaps.ends.flatten()[real[1]].tolist(), found.vectors[real[1]], strict=True):
        torch.testing.assert_close(vectors, by_end[end])


def test_each_end_keeps_its_target_when_gaps_are_closed(table: ItemTable) -> None:
    examples = window([STRANGE, 1, 2, STRANGE, 3], [4])
    trained = TrainedPositions(
        ends=np.array([[0, 1, 2, 3, 4, -1]]),
        targets=np.array([[[1], [2], [STRANGE], [3], [4], [0]]]),
        mask=np.array([[[True], [True], [True], [True], [True], [False]]]),
    )
    inputs = StepInputs.of(examples, trained, np.array([5]), table, FEATURES)
    assert inputs.ends.tolist() == [[-1, 0, 1, 1, 2]]
    assert told(inputs) == [[], [2], [], [3], [4]]
    assert inputs.num_targets == 3


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("every", [True, False])
def test_cutting_the_padding_changes_nothing(config: ModelConfig, every: bool, table: ItemTable) -> None:
    short, long = (window([4, 7, 1, 9], [3], longest=longest) for longest in (4, 12))
    inputs = [inputs_of(table, examples, every=every and examples is short) for examples in (short, long)]
    assert [part.history.shape for part in inputs] == [(1, 4), (1, 4)]
    whole = [interests_of(config, table, part).vectors[part.ends.flatten() == 3] for part in inputs]
    torch.testing.assert_close(whole[0], whole[1])
    examples = Examples.concatenate([long, window([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [3], longest=12)])
    beside = inputs_of(table, examples, every=every)
    assert beside.history.shape == (2, 10)
    first = interests_of(config, table, beside).vectors[: beside.ends.shape[1]][beside.ends[0] == 3]
    torch.testing.assert_close(first, whole[0])


def test_the_longest_history_and_the_last_end_set_the_widths(table: ItemTable) -> None:
    inputs = inputs_of(table, Examples.concatenate([window([1, 2], [3]), window([1, 2, 4], [3])]), every=True)
    assert inputs.history.shape == (2, 3)
    assert inputs.ends.shape == (2, 3)
    assert inputs.targets.shape == inputs.target_mask.shape == (6, 3)


def test_a_target_is_found_in_the_pool_and_others_are_not(table: ItemTable) -> None:
    examples = Examples.concatenate([window([1, 2], [3, 8]), window([4], [5, STRANGE, 9])])
    beside, alone = (inputs_of(table, examples, in_batch=in_batch) for in_batch in (True, False))
    assert beside.pool_keys.tolist() == [3, 5, 8, 9]
    assert alone.pool_keys.tolist() == [3, 5], "what was drawn, once, without what is unknown"
    for inputs in (beside, alone):
        assert told(inputs) == [[3, 8], [5, 9]]
        for row, places, mask in zip(inputs.targets, inputs.targets_in_pool, inputs.target_mask, strict=True):
            for item, place, real in zip(row.tolist(), places.tolist(), mask.tolist(), strict=True):
                (key,) = inputs_keys(inputs, [item])
                if real and key in inputs.pool_keys:
                    assert inputs.pool_keys[place] == key
                elif real:
                    assert place == -1


def test_the_pool_is_empty_without_negatives_of_any_kind(table: ItemTable) -> None:
    inputs = inputs_of(table, window([1, 2], [3, 8]), negatives=np.zeros(0, np.int64), in_batch=False)
    assert len(inputs.pool) == 0
    assert inputs.targets_in_pool.tolist() == [[-1, -1, -1]]
    assert told(inputs) == [[3, 8]]


def test_windows_without_a_known_behavior_or_target_teach_nothing(table: ItemTable) -> None:
    dull = [window([STRANGE], [3]), window([1], [STRANGE]), window([1], []), window([], [3])]
    for every in (True, False):
        inputs = inputs_of(table, Examples.concatenate([*dull, window([5], [6])]), every=every)
        assert inputs.history_keys[inputs.history_mask].tolist() == [5]
        assert told(inputs) == [[6]]
        assert inputs_of(table, Examples.concatenate(dull), every=every).num_targets == 0


def test_no_windows_at_all_are_inputs_too(table: ItemTable) -> None:
    for every in (True, False):
        inputs = inputs_of(table, Examples.none(12, 3, 1), every=every)
        assert inputs.history.shape == (0, 1)
        assert inputs.num_targets == 0
        assert interests_of(MODELS["transformer"], table, inputs).vectors.shape[0] == 0


def test_every_item_and_profile_has_the_vector_of_its_row(table: ItemTable) -> None:
    examples = Examples.concatenate([window([4, 7], [3], profile=key) for key in (PROFILE, PROFILE + 1, 0, STRANGE)])
    inputs = inputs_of(table, examples)
    rows, _ = table.lookup(inputs.row_keys)
    vectors = ItemTower(ModelConfig(dim=DIM))(rows, inputs.parts)
    behaviors, profiles = inputs.behaviors(vectors, rows), inputs.profiles(rows)
    torch.testing.assert_close(behaviors.vectors[0], table.lookup(np.array([4, 7]))[0])
    assert profiles is not None
    torch.testing.assert_close(profiles[:2, 0], table.lookup(np.array([PROFILE, PROFILE + 1]))[0])
    assert not profiles[2:].any(), "a missing profile and one without a row are zeros"
    assert inputs_of(table, replace(examples, profile=np.zeros((4, 0), np.int64))).profiles(rows) is None


@dataclass(frozen=True)
class OneFeature:
    """Every item up to NUM_ITEMS has one feature."""

    feature_offsets: Keys
    feature_keys: Keys
    feature_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros((NUM_ITEMS, 0), np.float32))

    def rows(self, keys: Keys) -> Keys:
        return np.where(keys <= NUM_ITEMS, keys - 1, -1)


def test_items_whose_id_is_dropped_are_made_of_their_features_alone(table: ItemTable) -> None:
    features = OneFeature(np.arange(NUM_ITEMS + 1), np.full(NUM_ITEMS, PROFILE))
    examples = window([1, 2, 3, 4], [5])
    trained, negatives = TrainedPositions.after_window(examples), np.arange(1, NUM_ITEMS + 1)
    counts = []
    for rate in (0.0, 0.5, 0.999999):
        generator = np.random.default_rng(3)
        options: dict[str, Any] = {"id_dropout": rate, "generator": generator}
        inputs = StepInputs.of(examples, trained, negatives, table, features, **options)
        real = inputs.parts.bags.mask[inputs.pool]
        assert bool(real[:, 1].all())
        counts.append(int(real[:, 0].sum()))
    assert counts[0] == NUM_ITEMS
    assert 0 < counts[1] < NUM_ITEMS
    assert counts[2] == 0
