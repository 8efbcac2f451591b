"""What is published from a run is copied whole, or not at all, and stays as long as the index has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mind_dist.checkpoint import ModelVersion, copy_version
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.publishing import PublishedCopies
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions, version_at
from tests.toy_training import FROM_LOG, event_examples, open_run, toy_log, write_dataset
from tests.versions import tiny_version


def saved(path: Path, seed: int = 1) -> ModelVersion:
    return ModelVersion.open(tiny_version(path, seed=seed))


class KilledError(Exception):
    """Stands for the end of a process at some block of a copy."""


def test_a_copy_is_the_same_version_and_outlives_the_first(tmp_path: Path) -> None:
    version = saved(tmp_path / "run" / "checkpoint_00000001")
    copy = copy_version(version, Directory.at(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "run")
    copy.verify()
    assert ModelVersion.open(copy.uri).manifest == version.manifest
    assert InterestEncoder.load(copy.uri).model_version == version.manifest.model_version


def test_a_copy_has_no_users(tmp_path: Path) -> None:
    dataset = PreparedDataset.open(write_dataset(tmp_path / "dataset"))
    run = open_run(event_examples(toy_log(), dataset=dataset), dataset, observe=True, config=FROM_LOG)
    next(run.steps())
    run.save(Directory.at(tmp_path / "checkpoint_00000001"))
    version = ModelVersion.open(str(tmp_path / "checkpoint_00000001"))
    assert any(version.history(partition) for partition in version.manifest.positions)
    copy = ModelVersion.open(copy_version(version, Directory.at(tmp_path / "copy")).uri)
    assert not any(copy.history(partition) for partition in version.manifest.positions)
    assert not [*(tmp_path / "copy").rglob("history*")]
    assert InterestEncoder.load(copy.uri).model_version == version.manifest.model_version
    assert copy_version(version, Directory.at(copy.uri)) == copy, "it is whole as it is"


def test_a_copy_that_ends_anywhere_is_no_version_until_it_is_made_again(tmp_path: Path) -> None:
    version = saved(tmp_path / "checkpoint_00000001")
    num_blocks = len(version.manifest.files)  # each is smaller than a block
    for end in range(num_blocks):
        left = iter(range(end))

        def on_block(left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise KilledError

        target = Directory.at(tmp_path / f"copy {end}")
        with pytest.raises(KilledError):
            copy_version(version, target, on_block)
        assert not target.exists("manifest.json")
        with pytest.raises(VersionError, match=r"no manifest\.json"):
            ModelVersion.open(target.uri)
        assert ModelVersion.open(copy_version(version, target).uri).manifest == version.manifest


def test_a_version_that_its_run_deletes_while_it_is_copied_is_noticed(tmp_path: Path) -> None:
    version = saved(tmp_path / "checkpoint_00000001")
    target = Directory.at(tmp_path / "copy")
    with pytest.raises(VersionError, match="is missing or cannot be read") as raised:
        copy_version(version, target, lambda: shutil.rmtree(tmp_path / "checkpoint_00000001", ignore_errors=True))
    assert version.uri in str(raised.value)
    assert not target.exists("manifest.json")
    with pytest.raises(VersionError, match=r"manifest\.json is missing"):
        copy_version(version, target)


def test_a_version_that_is_altered_or_replaced_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_00000001"
    version, target = saved(path), Directory.at(tmp_path / "copy")
    content = bytearray((path / "dense.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "dense.safetensors").write_bytes(content)
    with pytest.raises(VersionError, match=r"dense\.safetensors is torn or altered"):
        copy_version(version, target)
    assert not target.exists("dense.safetensors")
    saved(path, seed=2)
    with pytest.raises(VersionError, match="another version has been saved here meanwhile"):
        copy_version(version, target)
    assert not target.exists("manifest.json")


def test_a_copy_that_is_whole_stays_and_one_that_is_damaged_is_mended(tmp_path: Path) -> None:
    version, target = saved(tmp_path / "checkpoint_00000001"), Directory.at(tmp_path / "copy")
    blocks: list[None] = []
    for expected in (len(version.manifest.files), 0):
        blocks.clear()
        copy_version(version, target, lambda: blocks.append(None))
        assert len(blocks) == expected
    (tmp_path / "copy" / "catalog.parquet").write_bytes(b"torn")
    ModelVersion.open(copy_version(version, target).uri)


def test_a_copy_that_cannot_be_written_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"where a directory should be")
    with pytest.raises(VersionError, match="cannot be copied here"):
        copy_version(saved(tmp_path / "checkpoint_00000001"), Directory.at(tmp_path / "file" / "copy"))


def test_copies_in_a_runs_directory_are_no_versions_of_the_run(tmp_path: Path) -> None:
    versions = RunVersions(Directory.at(tmp_path))
    copies = PublishedCopies(Directory.at(tmp_path) / "published" / "milvus_19530")
    for step in (1, 2, 3, 4):
        version = saved(Path(versions.place(step).path), seed=step)
        copies.add(version)
        versions.keep(step, 2)
        assert version_at(str(tmp_path)) == versions.place(step).uri
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == ["checkpoint_00000003", "checkpoint_00000004"]
    found = versions.newest_whole().version
    assert found is not None
    versions.go_on_from(found)
    assert len({path.parent for path in tmp_path.glob("published/*/*/manifest.json")}) == 4


def test_copies_that_are_not_kept_go_half_ones_as_well(tmp_path: Path) -> None:
    copies = PublishedCopies(Directory.at(tmp_path / "published"))
    names = [copies.add(saved(tmp_path / f"checkpoint_{step}", seed=step)).manifest.model_version for step in (1, 2, 3)]
    (tmp_path / "published" / names[1] / "manifest.json").unlink()
    (tmp_path / "published" / "notes.txt").write_text("somebody's own")
    assert copies.keep_only([names[2]]) == tuple(names[:2])
    assert [copies.has(name) for name in names] == [False, False, True]
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == ["notes.txt", names[2]]
    assert copies.keep_only([names[2], "v00000009_00000000"]) == ()


def test_it_is_noted_that_readers_have_been_on_a_copy(tmp_path: Path) -> None:
    copies = PublishedCopies(Directory.at(tmp_path / "published"))
    name = copies.add(saved(tmp_path / "checkpoint_1")).manifest.model_version
    assert not copies.was_active(name)
    copies.note_active(name)
    assert copies.was_active(name)
    copies.note_active("v00000009_00000000")
    assert not copies.place("v00000009_00000000").exists()
