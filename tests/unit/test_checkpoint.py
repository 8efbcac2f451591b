"""A model version on disk: written in parts, sealed, verified, read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mind_dist.checkpoint import FORMAT_VERSION, FileEntry, Manifest, ModelVersion, TableRows, VersionWriter, seal
from mind_dist.checkpoint.manifest import _digest_of
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.errors import VersionError
from mind_dist.keys import IdType
from mind_dist.log.partitioner import key_hash
from mind_dist.records import BehaviorSequence, PartTrained, Positions, UserHistory, no_keys
from mind_dist.storage import Directory

DENSE = {"bilinear": torch.eye(3), "head.0.bias": torch.arange(2.0), "scalar": torch.tensor(7)}
MODEL = ModelConfig(dim=3, hidden_dims=(5, 4))
TRAINING = TrainingConfig(max_behaviors=7)
CATALOG = ItemCatalog(pa.table([[-5, 3], ["a", "b"], [1, 2], [[9], []]], schema=ITEM_SCHEMA))
HISTORY = [
    UserHistory(BehaviorSequence(8, np.array([3, -5]), np.array([10, 20]), np.array([0, 9])), 1 << 30),
    UserHistory(BehaviorSequence(2, no_keys(), no_keys(), np.array([9, 0])), 4),
]


def table_rows(*keys: int) -> TableRows:
    column = np.array(keys, dtype=np.int64)
    matrix = np.outer(column, [1.0, 0.5, 0.25]).astype(np.float32)
    return TableRows(column, matrix, matrix + 1, matrix + 2, column + 3, column + 4, column + 5)


def save(path: Path, *, step: int = 12, positions: Positions | None = None) -> Manifest:
    directory = Directory.at(path)
    workers = [VersionWriter(directory), VersionWriter(directory)]
    workers[0].write_dense(DENSE)
    workers[0].write_optimizer({})
    workers[0].write_catalog(CATALOG)
    workers[0].write_item_shard(0, 2, [table_rows(3, 11, -5)])
    workers[1].write_item_shard(1, 2, [table_rows(9)])
    workers[1].write_history(4, HISTORY)
    return seal(
        directory,
        workers[0].files | workers[1].files,
        config={"model": dump(MODEL), "training": dump(TRAINING), "event_types": ["buy", "rent"]},
        id_type="string",
        step=step,
        watermark_ms=99,
        positions=positions or {0: 17, 4: 0},
        metrics={"recall@50": 0.25},
        source="somewhere",
        part_trained={4: [PartTrained(3, 5, 9)]},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "v")
    return tmp_path / "v"


def assert_same_user(read: BehaviorSequence, written: BehaviorSequence) -> None:
    assert read.user_key == written.user_key
    for name in ("item_keys", "timestamps_ms", "profile_keys"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == np.int64


def test_a_version_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = save(tmp_path)
    version = ModelVersion.open(str(tmp_path))
    assert version.manifest == manifest
    assert manifest.positions == {0: 17, 4: 0}
    assert manifest.part_trained == {4: [PartTrained(3, 5, 9)]}
    assert version.manifest.event_types == ("buy", "rent")
    assert (version.model_config(), version.training_config()) == (MODEL, TRAINING)
    dense = version.dense()
    assert dense.keys() == DENSE.keys()
    assert all(torch.equal(dense[name], tensor) for name, tensor in DENSE.items())
    assert version.optimizer() == {}
    assert version.catalog().table.equals(CATALOG.table)
    for read, written in zip(version.history(4), reversed(HISTORY), strict=True):
        assert_same_user(read.sequence, written.sequence)
        assert read.key_hash == written.key_hash
    assert version.history(5) == []


@pytest.mark.parametrize(("id_type", "hashes"), [("int64", [key_hash(b"2"), key_hash(b"8")]), ("string", [-1, -1])])
def test_histories_saved_without_the_keys_hashes_have_those_that_follow_from_ids(
    tmp_path: Path, id_type: IdType, hashes: list[int]
) -> None:
    directory = Directory.at(tmp_path)
    writer = VersionWriter(directory)
    writer.write_history(4, HISTORY)
    (name,) = writer.files
    directory.write_table(name, directory.read_table(name).drop_columns(["key_hash"]))
    manifest = dataclasses.replace(_manifest_of(writer.files), id_type=id_type)
    assert [history.key_hash for history in ModelVersion(directory, manifest).history(4)] == hashes


def test_a_version_of_more_than_ten_partitions_reads_back(tmp_path: Path) -> None:
    positions = {partition: 5 * partition for partition in range(12)}
    save(tmp_path, positions=positions)
    assert ModelVersion.open(str(tmp_path)).manifest.positions == positions


def test_item_shards_are_joined_in_key_order(saved: Path) -> None:
    joined, expected = ModelVersion.open(str(saved)).items(), table_rows(-5, 3, 9, 11)
    for name, column in vars(expected).items():
        assert np.array_equal(getattr(joined, name), column), name
        assert getattr(joined, name).dtype == column.dtype, name


def test_a_shard_is_written_and_read_in_parts(tmp_path: Path) -> None:
    writer = VersionWriter(Directory.at(tmp_path))
    writer.write_item_shard(0, 2, iter([table_rows(-5, 3), table_rows(), table_rows(7)]))
    writer.write_item_shard(1, 2, [table_rows(9)])
    version = ModelVersion(Directory.at(tmp_path), _manifest_of(writer.files))
    version.verify()
    read, expected = TableRows.concatenate(list(version.item_parts())), table_rows(-5, 3, 7, 9)
    for name, column in vars(expected).items():
        assert np.array_equal(getattr(read, name), column), name
        assert getattr(read, name).dtype == column.dtype, name


def test_empty_shards_and_histories_are_kept(tmp_path: Path) -> None:
    writer = VersionWriter(Directory.at(tmp_path))
    writer.write_item_shard(0, 1, [table_rows()])
    writer.write_history(0, [])
    version = ModelVersion(Directory.at(tmp_path), _manifest_of(writer.files))
    assert version.items().vectors.shape == (0, 3)
    assert version.history(0) == []


def _manifest_of(files: dict[str, FileEntry]) -> Manifest:
    return Manifest(FORMAT_VERSION, "v", 0, {}, "int64", 0, 0, {}, {}, "", files)


def test_the_same_content_has_the_same_name_and_other_content_another(tmp_path: Path) -> None:
    first, again, later = save(tmp_path / "1"), save(tmp_path / "2"), save(tmp_path / "3", step=13)
    assert first.model_version == again.model_version
    assert first.model_version.startswith("v00000012_")
    assert first.model_version.isidentifier()
    assert later.model_version != first.model_version
    assert first.files == again.files


def test_a_missing_version_and_one_without_manifest_are_refused(saved: Path) -> None:
    with pytest.raises(VersionError, match=r"nowhere: no manifest\.json"):
        ModelVersion.open(str(saved / "nowhere"))
    (saved / "manifest.json").unlink()
    with pytest.raises(VersionError, match="save was cut off"):
        ModelVersion.open(str(saved))


def test_a_missing_file_is_refused_by_name(saved: Path) -> None:
    for name in ModelVersion.open(str(saved)).manifest.files:
        (saved / name).rename(saved / "aside")
        with pytest.raises(VersionError, match=f"{name} is missing"):
            ModelVersion.open(str(saved))
        (saved / "aside").rename(saved / name)


def test_a_torn_or_altered_file_is_refused_by_name(saved: Path) -> None:
    for name in ModelVersion.open(str(saved)).manifest.files:
        content = (saved / name).read_bytes()
        altered = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(0, len(content), 97)]
        for damaged in [content[:-1], content + b"\0", b"", *altered]:
            (saved / name).write_bytes(damaged)
            with pytest.raises(VersionError, match=f"{name} is torn or altered"):
                ModelVersion.open(str(saved))
        (saved / name).write_bytes(content)


def test_no_altered_byte_of_the_manifest_changes_what_is_read(saved: Path) -> None:
    content = (saved / "manifest.json").read_bytes()
    whole = ModelVersion.open(str(saved)).manifest
    for at in range(len(content)):
        (saved / "manifest.json").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with contextlib.suppress(VersionError):  # white space may change
            assert ModelVersion.open(str(saved), verify=False).manifest == whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe"])
def test_a_torn_manifest_is_refused(saved: Path, content: bytes) -> None:
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(VersionError, match=r"manifest\.json is torn"):
        ModelVersion.open(str(saved))


def test_another_format_version_is_refused_before_anything_else_is_read(saved: Path) -> None:
    (saved / "manifest.json").write_text(json.dumps({"format_version": 3, "whatever": 1}))
    with pytest.raises(VersionError, match="format version 3, this release reads 4: train it anew"):
        ModelVersion.open(str(saved))


def test_a_manifest_that_lacks_a_field_is_refused(saved: Path) -> None:
    manifest = _manifest_of({})
    values = {name: value for name, value in dataclasses.asdict(manifest).items() if name != "step"}
    (saved / "manifest.json").write_text(json.dumps({**values, "digest": _digest_of(values)}))
    with pytest.raises(VersionError, match="step"):
        ModelVersion.open(str(saved))


def test_a_file_torn_after_opening_is_refused_by_name(saved: Path) -> None:
    version = ModelVersion.open(str(saved))
    for name, read in [("dense.safetensors", version.dense), ("catalog.parquet", version.catalog)]:
        (saved / name).write_bytes(b"torn")
        with pytest.raises(VersionError, match=name):
            read()


def test_a_key_in_two_shards_is_refused(saved: Path) -> None:
    VersionWriter(Directory.at(saved)).write_item_shard(1, 2, [table_rows(11)])
    with pytest.raises(VersionError, match="a key is in two item shards"):
        ModelVersion.open(str(saved), verify=False).items()


def test_a_setting_of_another_release_is_refused(saved: Path) -> None:
    manifest = _manifest_of({})
    version = ModelVersion(Directory.at(saved), manifest)
    with pytest.raises(VersionError, match=r"manifest\.json: model"):
        version.model_config()


def test_a_version_with_a_part_missing_cannot_be_sealed(tmp_path: Path) -> None:
    files = dict(save(tmp_path).files)
    del files["items/shard-00000-of-00002.parquet"], files["dense.safetensors"]
    with pytest.raises(ValueError, match=r"without dense\.safetensors, items/shard-00000-of-00002\.parquet"):
        seal(
            Directory.at(tmp_path),
            files,
            config={},
            id_type="int64",
            step=1,
            watermark_ms=0,
            positions={},
            metrics={},
            source="",
        )
