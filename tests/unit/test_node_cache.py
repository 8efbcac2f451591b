"""What processes of a node share of a version: made once, the same as in memory, and never believed when damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mind_dist.checkpoint import ModelVersion, VersionWriter
from mind_dist.config import cache_directory
from mind_dist.encoder import InterestEncoder
from mind_dist.encoder.reading import read_rows
from mind_dist.errors import VersionError
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory
from tests.versions import tiny_version

USER = BehaviorSequence(0, np.arange(12), np.arange(12))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    monkeypatch.setenv("MIND_DIST_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO):
        yield tmp_path / "cache"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return tiny_version(tmp_path / "version")


def contents(encoder: InterestEncoder) -> list[bytes]:
    interests = encoder.encode([USER])[0].vectors
    arrays = [encoder.item_keys, encoder.item_vectors, interests]
    return [*(np.asarray(array).tobytes() for array in arrays), str(encoder.catalog.table.to_pydict()).encode()]


def num_made(caplog: pytest.LogCaptureFixture) -> int:
    return [record.message for record in caplog.records].count("items mapped for this node")


def test_what_is_mapped_is_what_is_in_memory(uri: str) -> None:
    in_memory = contents(InterestEncoder(ModelVersion.open(uri)))
    assert contents(InterestEncoder.load(uri)) == contents(InterestEncoder.load(uri)) == in_memory


def test_many_that_load_at_once_make_it_once(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: contents(InterestEncoder.load(uri)), range(4)))
    assert all(each == found[0] for each in found)
    assert num_made(caplog) == 1


def test_what_a_killed_maker_left_is_made_anew(uri: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = contents(InterestEncoder.load(uri))
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    made.rename(made.with_name(f"{made.name}.part"))
    assert contents(InterestEncoder.load(uri)) == whole
    assert num_made(caplog) == 2
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]


def test_a_damaged_or_missing_file_is_made_anew(uri: str, cache: Path) -> None:
    whole = contents(InterestEncoder.load(uri))
    names = sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    assert len(names) == 6
    for name in names:
        path = cache / name
        (content, other) = (path.read_bytes(), path.with_suffix(".other"))
        for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]) if content else b"x", None):
            other.write_bytes(damaged or b"")
            other.rename(path)  # written into, it would change under those who have it mapped
            if damaged is None:
                path.unlink()
            assert contents(InterestEncoder.load(uri)) == whole


def test_another_version_of_the_same_name_is_not_taken_for_it(uri: str, cache: Path, tmp_path: Path) -> None:
    InterestEncoder.load(uri)
    other = tiny_version(tmp_path / "other", seed=2)
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    made.rename(cache / ModelVersion.open(other).manifest.model_version)
    assert contents(InterestEncoder.load(other)) == contents(InterestEncoder(ModelVersion.open(other)))


@pytest.mark.parametrize("name", ["dense.safetensors", "optimizer.safetensors", "items/shard-00000-of-00001.parquet"])
def test_a_torn_version_is_refused_and_leaves_nothing(uri: str, cache: Path, name: str) -> None:
    (Path(uri) / name).write_bytes(b"torn")
    with pytest.raises(VersionError, match=f"{name} is torn or altered"):
        InterestEncoder.load(uri)
    assert not [path for path in cache.rglob("*") if path.is_dir()]


def test_a_key_in_two_shards_is_refused(uri: str, tmp_path: Path) -> None:
    version = ModelVersion.open(uri)
    writer = VersionWriter(Directory.at(uri))
    writer.write_item_shard(0, 2, [version.items()])
    writer.write_item_shard(1, 2, [version.items().take(np.array([3]))])
    shards = {name: entry for name, entry in version.manifest.files.items() if not name.startswith("items/")}
    version.manifest.files.clear()
    version.manifest.files.update(shards | writer.files)
    with pytest.raises(VersionError, match="a key is in two item shards"):
        read_rows(version, 8, tmp_path / "scratch")


def test_where_nothing_can_be_written_a_process_has_its_own(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MIND_DIST_CACHE", str(tmp_path / "file" / "cache"))
    assert contents(InterestEncoder.load(uri)) == contents(InterestEncoder(ModelVersion.open(uri)))
    assert "items are not shared on this node: each process has its own" in caplog.messages


def test_the_versions_used_last_are_kept_and_a_dropped_one_stays_usable(tmp_path: Path, cache: Path) -> None:
    first = InterestEncoder.load(tiny_version(tmp_path / "0", seed=100))
    whole = contents(first)
    for number in range(1, 10):
        InterestEncoder.load(tiny_version(tmp_path / str(number), seed=100 + number))
    kept = {path.name for path in cache.iterdir() if path.is_dir()}
    assert len(kept) == 8
    assert first.model_version not in kept
    assert contents(first) == whole


def test_the_cache_is_where_the_environment_says_or_among_the_users_caches() -> None:
    assert cache_directory({"MIND_DIST_CACHE": "/fast"}) == Path("/fast")
    assert cache_directory({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/mind_dist")
    assert cache_directory({}) == Path("~/.cache/mind_dist").expanduser()
