"""Recipes: each can be trained, and `best` is what the train job does when nothing is said."""

import dataclasses
from pathlib import Path

import pytest

from jobs.train import Train
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.recipes import RECIPES, best
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun
from tests.toy_training import parquet_examples, write_dataset


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_serves(name: str, tmp_path: Path) -> None:
    recipe, dataset = RECIPES[name](), PreparedDataset.open(write_dataset(tmp_path / "dataset"))
    model = dataclasses.replace(recipe.model, dim=8, num_profile_features=1)
    config = dataclasses.replace(recipe.training, max_behaviors=6, batch_size=18, window_stride=2, max_steps=3)
    run = TrainingRun(parquet_examples(dataset, config), dataset, model, config, source="toy")
    assert [report.step for report in run.steps()] == [1, 2, 3]
    run.save(Directory.at(tmp_path / "version"))
    encoder = InterestEncoder.load(str(tmp_path / "version"))
    users = list(dataset.sequences("train"))
    longest = max(users, key=len)
    (interests,) = encoder.encode([longest])
    assert 1 <= len(interests.vectors) <= model.num_interests
    assert interests.weights.sum() == pytest.approx(1, abs=1e-5)


def test_the_train_job_takes_the_best_recipe_where_none_is_named() -> None:
    job = Train("dataset", "storage")
    assert (job.model, job.training) == (best().model, best().training)
