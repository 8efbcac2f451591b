"""The neural opponents: windows, layers, losses, and trials that are stopped and resumed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks import esasrec, sasrec
from benchmarks.dataset_info import DATASETS
from benchmarks.neural.model import CausalTransformer, Settings
from benchmarks.neural.search import Plan, draw, search
from benchmarks.neural.softmax import draw_negatives, full_softmax, sampled_softmax
from benchmarks.neural.training import Trial
from benchmarks.neural.windows import batches
from benchmarks.tasks import Task, user_split
from tests.toy_quality import write_quality_dataset

LENGTH = 5


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return user_split(DATASETS["ml1m"], write_quality_dataset(tmp_path_factory.mktemp("opponents")))


def test_an_epoch_has_every_behavior_but_a_users_first_once_as_a_target() -> None:
    starts = np.cumsum([0, 2, 5, 6, 7, 23])
    sequences = [np.arange(first, last) for first, last in pairwise(starts)]
    expected = Counter(item for rows in sequences for item in rows[1:].tolist())
    seen: Counter[int] = Counter()
    for inputs, targets in batches(sequences, LENGTH, 2 * LENGTH, seed=2, epoch=0):
        real = targets >= 0
        assert inputs.numel() <= 2 * LENGTH
        assert torch.equal(inputs[real] + 1, targets[real])
        assert not inputs[~real].any()
        seen.update(targets[real].tolist())
    assert seen == expected


def test_every_epoch_is_cut_at_other_places_and_always_the_same() -> None:
    first, again, second = (next(iter(batches([np.arange(40)], LENGTH, 100, 2, epoch))) for epoch in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("settings", [sasrec.BASE, esasrec.BASE], ids=["sasrec", "esasrec"])
def test_a_state_depends_on_nothing_after_it(settings: Settings) -> None:
    torch.manual_seed(0)
    model = CausalTransformer(20, replace(settings, length=LENGTH, num_heads=2)).eval()
    rows = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 0, 0]])
    with torch.inference_mode():
        whole, padded = model(rows)
        short = model(rows[:1, :3])[0]
    torch.testing.assert_close(whole[:3], padded[:3])
    torch.testing.assert_close(whole[:3], short)
    assert not torch.allclose(whole[3], padded[3])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_full_softmax_is_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    targets = torch.randint(40, (300,))
    found = []
    for loss in (full_softmax, _cross_entropy):
        states, items = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).double() for n in (300, 40))
        states.requires_grad_()
        items.requires_grad_()
        value = loss(states, items, targets, smoothing)
        value.backward()
        found.append((value.detach(), states.grad, items.grad))
    torch.testing.assert_close(found[0], found[1])


def _cross_entropy(states: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    return functional.cross_entropy(states @ items.T, targets, label_smoothing=smoothing)


@pytest.mark.parametrize("in_batch_share", [0.0, 0.5, 1.0])
def test_corrected_negatives_estimate_the_sum_over_all_items(in_batch_share: float) -> None:
    torch.manual_seed(0)
    states, items, targets = torch.randn(1, 8), torch.randn(12, 8), torch.arange(12).repeat_interleave(3)
    exact = full_softmax(states, items, targets[:1])
    negatives, expected = draw_negatives(targets, 12, 200_000, in_batch_share, np.random.default_rng(1))
    sampled = sampled_softmax(states, items, targets[:1], negatives, expected)
    torch.testing.assert_close(sampled, exact, rtol=0.01, atol=0.01)


def test_negatives_are_expected_as_often_as_they_are_drawn() -> None:
    targets, generator = torch.tensor([3, 3, 3, 1]), np.random.default_rng(1)
    counts, claimed = torch.zeros(5), torch.zeros(5)
    for _ in range(4000):
        negatives, expected = draw_negatives(targets, 5, 8, 0.5, generator)
        counts += torch.bincount(negatives, minlength=5)
        claimed[negatives] = expected.float()
    torch.testing.assert_close(counts / 4000, claimed, rtol=0.05, atol=0.0)
    assert claimed.sum() == pytest.approx(8)


def test_a_trial_that_was_stopped_ends_as_one_that_was_not(task: Task, tmp_path: Path) -> None:
    settings = replace(esasrec.BASE, length=8, positions=64, num_negatives=8)
    whole = Trial(task.choosing, settings, 3)
    whole.advance(lambda trained: trained.num_steps == 40)
    stopped = Trial(task.choosing, settings, 3)
    stopped.look(stopped.advance(lambda trained: trained.num_steps == 25), task.quality)
    stopped.save(tmp_path)
    resumed = Trial(task.choosing, settings, 3)
    resumed.restore(tmp_path)
    assert resumed.looks == stopped.looks
    resumed.advance(lambda trained: trained.num_steps == 40)
    assert resumed.epochs == whole.epochs
    for ours, theirs in zip(resumed.averaged.parameters(), whole.averaged.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_search_ends_with_the_best_of_its_trials_and_goes_on_where_it_stopped(task: Task, tmp_path: Path) -> None:
    space = {"learning_rate": (1e-6, 1e-2), "dropout": (0.0, 0.1)}
    candidates = draw(Settings(length=8, positions=64, num_heads=1), space, 4)
    assert len(set(candidates)) == 4
    plan = Plan(num_trials=4, first_s=0.1, limit_s=0.5, every_s=0.05, patience=3, seed=1)
    found = search(task, candidates, plan, tmp_path, lambda _: None)
    best = max(look.valid for _, looks in found.tried for look in looks[:2])
    assert found.trial.best.valid >= best
    assert task.quality(found.trial.recommender) == pytest.approx(found.trial.best.valid)
    lines: list[str] = []
    assert search(task, candidates, plan, tmp_path, lines.append).tried == found.tried
    assert not [line for line in lines if "valid" in line]
