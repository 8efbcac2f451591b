"""Which of its saved versions a run goes on from, and which it keeps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from mind_dist.checkpoint import ModelVersion, WatchState
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import VersionError
from mind_dist.storage import Directory
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_versions import RunVersions, version_at
from tests.toy_training import event_examples, open_run, toy_log, write_dataset
from tests.versions import tiny_version

Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    return lambda version: (version / name).write_bytes((version / name).read_bytes()[:-7])


def flip(version: Path) -> None:
    content = bytearray((version / "dense.safetensors").read_bytes())
    content[-1] ^= 1
    (version / "dense.safetensors").write_bytes(content)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "file cut": (cut("dense.safetensors"), "dense.safetensors is torn or altered"),
    "file altered": (flip, "dense.safetensors is torn or altered"),
    "file empty": (
        lambda version: (version / "catalog.parquet").write_bytes(b""),
        "catalog.parquet is torn or altered",
    ),
    "file missing": (lambda version: (version / "catalog.parquet").unlink(), "catalog.parquet is missing"),
    "manifest cut": (cut("manifest.json"), "manifest.json is torn"),
    "manifest nested": (
        lambda version: (version / "manifest.json").write_text("[" * 100_000),
        "manifest.json is torn",
    ),
    "manifest missing": (lambda version: (version / "manifest.json").unlink(), "no manifest.json"),
    "directory missing": (shutil.rmtree, "no manifest.json"),
}


def run_of(path: Path, *steps: int, num_to_keep: int = 9) -> RunVersions:
    """Return a run that has saved at these steps."""
    versions = RunVersions(Directory.at(path))
    for step in steps:
        tiny_version(Path(versions.place(step).path), seed=step)
        versions.keep(step, num_to_keep)
    return versions


def watched(path: Path, best_steps: dict[int, int], num_to_keep: int = 2) -> RunVersions:
    """Return a run that has saved at these steps, each time knowing of a best one."""
    versions = RunVersions(Directory.at(path))
    for step, best_step in best_steps.items():
        tiny_version(Path(versions.place(step).path), seed=step, watch=WatchState(best=0.1, best_step=best_step))
        versions.keep(step, num_to_keep, best_step)
    return versions


def kept(path: Path) -> list[int]:
    return sorted(int(each.name.removeprefix("checkpoint_")) for each in path.glob("checkpoint_*"))


def newest_step(versions: RunVersions) -> int | None:
    found = versions.newest_whole().version
    return found.manifest.step if found else None


def test_a_run_that_has_saved_nothing_has_no_version(tmp_path: Path) -> None:
    versions = RunVersions(Directory.at(tmp_path / "new"))
    assert versions.newest_whole().version is None
    cut_off = Path(versions.place(5).path)
    cut_off.mkdir(parents=True)
    (cut_off / "dense.safetensors").write_bytes(b"the process died here")
    assert versions.newest_whole().version is None


def test_the_newest_version_is_that_of_most_steps(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 9, 10, 100_000_000, 20)
    assert newest_step(versions) == 100_000_000
    assert versions.newest_whole().damaged == ()


def test_a_version_that_was_sealed_but_not_recorded_counts(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 10)
    tiny_version(Path(versions.place(20).path), seed=20)
    assert newest_step(versions) == 20


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_version_before_a_damaged_one_is_taken_and_the_damage_named(tmp_path: Path, kind: str) -> None:
    damage, problem = DAMAGES[kind]
    versions = run_of(tmp_path, 10, 20, 30)
    damage(Path(versions.place(30).path))
    found = versions.newest_whole()
    assert found.version is not None
    assert found.version.manifest.step == 20
    assert len(found.damaged) == 1
    assert found.damaged[0].startswith(versions.place(30).uri)
    assert problem in found.damaged[0]


@pytest.mark.parametrize("kind", DAMAGES)
def test_where_no_version_is_whole_all_are_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    damage, problem = DAMAGES[kind]
    versions = run_of(tmp_path, 10, 20)
    for step in (10, 20):
        damage(Path(versions.place(step).path))
    with pytest.raises(VersionError, match="no saved version is whole") as raised:
        versions.newest_whole()
    message = str(raised.value)
    assert message.count(problem) == 2
    assert all(versions.place(step).uri in message for step in (10, 20))
    assert "restore one of them, train under another name, or delete the run's directory" in message


def test_a_damaged_version_does_not_come_back_after_the_run_went_on(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 10, 20, 30)
    catalog = Path(versions.place(30).path) / "catalog.parquet"
    content = catalog.read_bytes()
    catalog.unlink()
    found = versions.newest_whole().version
    assert found is not None
    versions.go_on_from(found)
    catalog.write_bytes(content)
    again = versions.newest_whole()
    assert again.version is not None
    assert (again.version.manifest.step, again.damaged) == (20, ())


def test_only_the_newest_are_kept_and_what_a_crash_left_before_them_goes(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 10, 20)
    cut_off = Path(versions.place(15).path)
    cut_off.mkdir()
    (cut_off / "dense.safetensors").write_bytes(b"the process died here")
    run_of(tmp_path, 30, num_to_keep=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == ["checkpoint_00000020", "checkpoint_00000030"]
    assert newest_step(versions) == 30


def test_a_damaged_version_is_not_counted_among_those_that_are_kept(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 10, 20, 30, num_to_keep=2)
    (Path(versions.place(30).path) / "catalog.parquet").unlink()
    found = versions.newest_whole().version
    assert found is not None
    versions.go_on_from(found)
    run_of(tmp_path, 25, num_to_keep=2)
    for step in (25, 20):
        assert newest_step(versions) == step
        shutil.rmtree(versions.place(step).path)


def test_what_is_left_of_a_version_is_cleared_before_its_step_is_saved_again(tmp_path: Path) -> None:
    versions = run_of(tmp_path, 10, 20)
    leftover = Path(versions.place(20).path) / "items/shard-00000-of-00007.parquet"
    leftover.write_bytes(b"of seven workers")
    versions.clear(20)
    assert not leftover.exists()
    versions.clear(30)


@pytest.mark.parametrize(
    "content",
    [
        *('{"versions": ["check', "[1]", "null", '{"versions": null}', '{"versions": [["x"]]}'),
        *('{"a": 1}', "[" * 100_000, "\xff"),
    ],
    ids=range(8),
)
def test_a_damaged_record_of_the_versions_is_named(tmp_path: Path, content: str) -> None:
    versions = run_of(tmp_path, 10)
    (tmp_path / "versions.json").write_text(content, encoding="latin-1")
    with pytest.raises(VersionError, match=r"versions\.json: cannot be read: .*; delete it to go on"):
        versions.newest_whole()
    for harmless in ('{"versions": ["../a/checkpoint_00000024"]}', '{"versions": "abc"}'):
        (tmp_path / "versions.json").write_text(harmless)
        assert newest_step(versions) == 10
    (tmp_path / "versions.json").unlink()
    assert newest_step(versions) == 10


@pytest.mark.parametrize("kind", DAMAGES)
def test_training_from_a_log_goes_on_from_the_version_before_as_if_the_damaged_one_had_never_been(
    tmp_path: Path, kind: str
) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path / "dataset"))
    log = toy_log(poison_every=11)

    def opened(version: ModelVersion | None) -> TrainingRun:
        return open_run(event_examples(log, version, dataset=dataset), dataset, version, observe=True)

    def finished(run: TrainingRun) -> ModelVersion:
        list(run.steps())
        run.save(Directory.at(tmp_path / "end"))
        return ModelVersion.open(str(tmp_path / "end"))

    uninterrupted = finished(opened(None))
    shutil.rmtree(tmp_path / "end")
    versions = RunVersions(Directory.at(tmp_path / "run"))
    crashed = opened(None)
    for report in islice(crashed.steps(), 6):
        if report.step in (3, 5):
            crashed.save(versions.place(report.step))
            versions.keep(report.step, 2)
    DAMAGES[kind][0](Path(versions.place(5).path))
    found = versions.newest_whole().version
    assert found is not None
    assert found.manifest.step == 3
    resumed = finished(opened(found))
    assert resumed.manifest.files == uninterrupted.manifest.files
    assert resumed.manifest.positions == uninterrupted.manifest.positions
    assert resumed.manifest.step == uninterrupted.manifest.step


def test_a_runs_directory_stands_for_its_newest_whole_version(tmp_path: Path) -> None:
    versions = run_of(tmp_path / "run", 5, 9)
    assert version_at(str(tmp_path / "run")) == versions.place(9).uri
    assert version_at(versions.place(5).uri) == versions.place(5).uri
    flip(Path(versions.place(9).path))
    assert version_at(str(tmp_path / "run")) == versions.place(5).uri
    flip(Path(versions.place(5).path))
    with pytest.raises(VersionError, match="no saved version is whole"):
        version_at(str(tmp_path / "run"))
    with pytest.raises(VersionError, match=r"no manifest\.json"):
        ModelVersion.open(version_at(str(tmp_path / "nothing")))


def test_the_best_version_is_kept_beside_the_newest_and_is_what_the_run_stands_for(tmp_path: Path) -> None:
    versions = watched(tmp_path, {10: 10, 20: 20, 30: 20, 40: 20, 50: 20})
    assert kept(tmp_path) == [20, 40, 50]
    assert version_at(str(tmp_path)) == versions.place(20).uri
    assert newest_step(versions) == 50, "a run goes on from there"
    watched(tmp_path, {60: 60})
    assert kept(tmp_path) == [50, 60]
    assert version_at(str(tmp_path)) == versions.place(60).uri


def test_a_run_whose_best_version_is_damaged_stands_for_its_newest(tmp_path: Path) -> None:
    versions = watched(tmp_path, {10: 10, 20: 10, 30: 10})
    flip(Path(versions.place(10).path))
    assert version_at(str(tmp_path)) == versions.place(30).uri
    (problem,) = versions.best_whole().damaged
    assert versions.place(10).uri in problem
    assert versions.has(10)
    assert not versions.has(15)
