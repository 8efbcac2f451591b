"""`benchmarks.quality` from cells to its report, on a toy dataset that stands in for ml1m."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import cells, choose, esasrec, measuring, opponents, sasrec
from benchmarks.choose import Choose
from benchmarks.neural.opponent import OpponentJob
from benchmarks.neural.stored import stored_outcome, stored_result
from benchmarks.opponents import Opponents
from benchmarks.quality import Quality, main, warn_of_choices
from mind_dist.errors import ConfigError
from mind_dist.evaluation.measuring import CURVE_CUTOFFS
from mind_dist.recipes import Recipe, best
from tests.toy_quality import SPLITS, write_quality_dataset

DEMANDED = {
    *("dataset", "recipe", "k", "seed", "dim", "history", "recall@20", "recall@50", "hit@50", "ndcg@50"),
    *("recall@100", "recall@200", "recall@500", "num_categories", "interest_cosine", "train_s"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache in which ml1m is the toy dataset."""
    cells.open_task.cache_clear()
    path = tmp_path_factory.mktemp("quality")
    write_quality_dataset(path / "ml1m")
    return path


def job(cache: Path, output: Path) -> Quality:
    return Quality(datasets=("ml1m",), interests=(2, 1), max_steps=3, jobs=1, cache=cache, output=output)


def test_quality_measures_every_cell_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(job(cache, tmp_path))
    rows = json.loads((tmp_path / "quality.json").read_text())
    assert {(row["recipe"], row["k"], row["history"]) for row in rows} == {
        (recipe, k, history)
        for recipe, k in (("popularity", 1), ("itemknn", 1), ("ease", 1), ("tgh", 1), ("best", 2), ("best", 1))
        for history in ("kept", "removed")
    }
    assert all(row.keys() >= DEMANDED for row in rows)
    assert {(row["recipe"] == "best", row["dim"]) for row in rows} == {(True, 64), (False, 0)}
    several = [row for row in rows if row["recipe"] == "best" and row["k"] == 2]
    assert all(0 <= row["least_interest_share@50"] <= 0.5 and row["best_single_recall@50"] > 0 for row in several)
    paired = json.loads((tmp_path / "quality-paired.json").read_text())
    assert {each["other"] for each in paired} == {"popularity", "itemknn", "ease", "tgh", "best"}
    interests = json.loads((tmp_path / "quality-interests.json").read_text())
    assert {(each["k"], each["other_k"], each["dim"], each["other_dim"]) for each in interests} == {(2, 1, 64, 64)}
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4

    monkeypatch.setattr(cells, "train_cell", None)  # to train is to fail
    monkeypatch.setattr(cells, "fitted", None)
    main(job(cache, tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "quality.json").read_text()) == rows


def test_measures_again_without_training_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cell = cells.Bench("", cache, "user-split", "valid", 3), cells.Cell("ml1m", "best", 2, 5)
    first = cells.run_cell(bench, cell)
    monkeypatch.setattr(cells, "train_cell", None)
    assert cells.run_cell(bench, cell, remeasure=True).rows == first.rows


def test_a_width_is_a_cell_of_its_own_but_the_recipes_own_is_not(cache: Path) -> None:
    own, narrow = Quality(recipes=("best",), interests=(2,), floors=(), dims=(64, 8)).cells()
    assert [own] == Quality(recipes=("best",), interests=(2,), floors=()).cells()
    bench = cells.Bench("", cache, "user-split", "test", 3)
    task = cells.open_task(bench, "ml1m")
    keys = [cells._key(bench, replace(cell, dataset="ml1m"), task) for cell in (own, narrow)]
    assert keys[0].startswith("ml1m-best-k2-s17-")
    assert keys[1].startswith("ml1m-best-k2-d8-s17-")
    assert keys[0][-10:] != keys[1][-10:]
    recipe = cells.recipe_of(bench, replace(own, dataset="ml1m"), task.reporting.dataset)
    assert recipe.model == replace(best().model, num_interests=2)
    assert cells.recipe_of(bench, replace(narrow, dataset="ml1m"), task.reporting.dataset).model.dim == 8


def test_settings_are_chosen_by_the_valid_users_alone(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose.main(Choose(("training.temperature=0.1,0.2",), datasets=("ml1m",), interests=2, max_steps=3, cache=cache))
    shown = capsys.readouterr().out
    assert "best on the valid users of ml1m" in shown
    assert shown.count("training.temperature=0.2") >= 3
    cell = cells.Cell("ml1m", "best", 2, changes=("training.temperature=0.2",))
    with pytest.raises(ConfigError, match="settings are chosen on the valid users"):
        cells.run_cell(cells.Bench("", cache, "user-split", "test", 3), cell)
    with pytest.raises(ConfigError, match="has no values"):
        list(Choose(("training.temperature",)).cells("ml1m"))


def test_what_test_users_have_seen_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(temperature: float) -> Recipe:
        return replace(best(), training=replace(best().training, temperature=temperature, epochs=1))

    cells.open_task.cache_clear()
    write_quality_dataset(tmp_path / "ml1m")
    bench, cell = cells.Bench("", tmp_path, "user-split", "test"), cells.Cell("ml1m", "best", 2)
    lines: list[str] = []
    for seed, temperature in ((1, 0.1), (2, 0.1), (1, 0.2)):
        assert not lines
        monkeypatch.setattr(cells, "RECIPES", {"best": partial(recipe, temperature)})
        cells.run_cell(bench, replace(cell, seed=seed))
        warn_of_choices(bench, [cell], lines.append)
    assert lines == [
        "ml1m split 1230, best K=2: 2 settings have been measured on its test users; choose by `benchmarks.choose` alone"
    ]
    cells.open_task.cache_clear()


def test_lists_of_other_lengths_are_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cell = cells.Bench("", cache, "user-split", "valid", 3), cells.Cell("ml1m", "best", 1, 5, 8)
    with monkeypatch.context() as shorter:
        shorter.setattr(measuring, "CURVE_CUTOFFS", (5, 50))
        shorter.setattr(cells, "CURVE_CUTOFFS", (5, 50))
        assert len(cells.run_cell(bench, cell).curves["kept"]["recall"]) == 2
    monkeypatch.setattr(cells, "train_cell", None)
    found = cells.run_cell(bench, cell)
    assert [limit for limit, _ in found.curves["kept"]["recall"]] == list(CURVE_CUTOFFS)
    assert found.rows[0]["dim"] == 8


def test_floors_are_measured_alone(cache: Path, tmp_path: Path) -> None:
    main(replace(job(cache, tmp_path), recipes=("none",), floors=("popularity", "itemknn")))
    rows = json.loads((tmp_path / "quality.json").read_text())
    assert {row["recipe"] for row in rows} == {"popularity", "itemknn"}
    assert json.loads((tmp_path / "quality-paired.json").read_text()) == []


@pytest.mark.parametrize("opponent", [sasrec, esasrec], ids=["sasrec", "esasrec"])
def test_an_opponent_is_stored_with_its_command_and_curves(cache: Path, tmp_path: Path, opponent: ModuleType) -> None:
    job = OpponentJob("ml1m", num_trials=2, first_s=0.2, limit_s=0.4, every_s=0.1, cache=cache, output=tmp_path)
    opponent.main(job)
    cell = cells.Cell("ml1m", opponent.__name__.rpartition(".")[2])
    found = stored_outcome(cell, "user-split", tmp_path)
    assert found is not None
    assert all(row.keys() >= DEMANDED and row["settings"]["trials"] == 2 for row in found.rows)
    assert len(found.per_user["kept"]["recall@50"]) == len(found.users) == SPLITS["test"]
    result = stored_result(cell, "user-split", tmp_path)
    assert result["command"].startswith("python")
    assert (
        max(valid for tried in result["tried"] for _, _, valid in tried["looks"]) == found.rows[0]["settings"]["valid"]
    )
    assert stored_outcome(replace(cell, dataset="beauty"), "user-split", tmp_path) is None

    write_quality_dataset(cache / "ml1m-split-1231")
    opponent.main(replace(job, split=1231, num_trials=0))
    other = stored_result(replace(cell, split=1231), "user-split", tmp_path)
    assert [each["settings"] for each in other["tried"]] == [
        {name: found.rows[0]["settings"][name] for name in other["tried"][0]["settings"]}
    ]
    with pytest.raises(ConfigError, match="0 needs a stored search"):
        opponent.main(replace(job, num_trials=0, output=tmp_path / "none"))


def test_opponents_that_are_stored_are_not_trained_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_quality_dataset(cache / "ml1m-split-1231")
    quick = Opponents("", ("ml1m",), num_trials=1, first_s=0.1, limit_s=0.1, cache=cache, output=tmp_path)
    with pytest.raises(ValueError, match="every_s must be above 0, at most first_s"):
        opponents.main(quick)
    jobs: list[OpponentJob] = []
    monkeypatch.setattr(opponents, "_MAINS", {"sasrec": jobs.append})
    (tmp_path / "sasrec.json").write_text('{"ml1m/user-split/1230": {"rows": []}}')
    opponents.main(replace(quick, first_s=60.0, limit_s=60.0, models=("sasrec",)))
    assert [(each.split, each.num_trials) for each in jobs] == [(1231, 0), (1232, 0)]
    with pytest.raises(ValueError, match="splits must begin with 1230"):
        replace(quick, models=("sasrec",), splits=(1231,))


def test_leave_one_out_trains_on_what_it_was_chosen_by(tmp_path: Path) -> None:
    cells.open_task.cache_clear()
    write_quality_dataset(tmp_path / "ml1m-all")
    job = OpponentJob("ml1m", num_trials=1, first_s=0.2, limit_s=0.3, every_s=0.1, cache=tmp_path, output=tmp_path)
    sasrec.main(replace(job, protocol="leave-one-out"))
    found = stored_result(cells.Cell("ml1m", "sasrec"), "leave-one-out", tmp_path)
    assert {row["history"] for row in found["rows"]} == {"removed"}
    assert 0 < found["rows"][0]["hr@10"] <= 1
    cells.open_task.cache_clear()


def test_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ml1m needs the folder that holds ml1m\.parquet"):
        main(Quality(datasets=("ml1m",), cache=tmp_path, output=tmp_path))
    with pytest.raises(ConfigError, match="no worst; there are"):
        Quality(recipes=("worst",)).cells()
    with pytest.raises(ValueError, match="dims must be at least 1"):
        Quality(dims=(16, 0))
