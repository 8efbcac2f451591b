"""Copies of published versions in an object store with settings in its URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from mind_dist.checkpoint import ModelVersion
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.publishing import PublishedCopies
from mind_dist.storage import Directory
from tests.versions import tiny_version


def test_a_version_is_copied_to_an_object_store_whole_noted_and_removed(tmp_path: Path, s3_bucket: str) -> None:
    copies = PublishedCopies(Directory.at(s3_bucket) / "runs" / "live" / "published" / "milvus_19530")
    versions = [ModelVersion.open(tiny_version(tmp_path / str(seed), seed=seed)) for seed in (1, 2)]
    names = [version.manifest.model_version for version in versions]
    uris = [copies.add(version).uri for version in versions]
    assert [InterestEncoder.load(uri).model_version for uri in uris] == names
    copies.note_active(names[0])
    assert [copies.was_active(name) for name in names] == [True, False]
    assert copies.keep_only([names[1]]) == (names[0],)
    assert [copies.has(name) for name in names] == [False, True]
    with pytest.raises(VersionError, match=r"no manifest\.json"):
        ModelVersion.open(uris[0])
    assert ModelVersion.open(copies.add(versions[1]).uri).manifest == versions[1].manifest


def test_a_copy_from_an_object_store_that_ends_half_way_is_no_version(tmp_path: Path, s3_bucket: str) -> None:
    bucket = PublishedCopies(Directory.at(s3_bucket))
    version = bucket.add(ModelVersion.open(tiny_version(tmp_path / "1")))
    name = version.manifest.model_version

    def delete() -> None:
        bucket.keep_only([])

    with pytest.raises(VersionError, match="is missing or cannot be read"):
        PublishedCopies(Directory.at(s3_bucket) / "copies").add(version, delete)
    assert not PublishedCopies(Directory.at(s3_bucket) / "copies").has(name)
