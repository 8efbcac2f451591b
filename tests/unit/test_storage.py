import io
import os
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash
from pyarrow import fs

from mind_dist.errors import ConfigError
from mind_dist.storage import DigestingStream, Directory


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_is_written_is_read_back(tmp_path: Path, scheme: str) -> None:
    directory = Directory.at(f"{scheme}{tmp_path}/new")
    directory.write_bytes("a/b.bin", b"content")
    directory.write_table("t.parquet", pa.table({"x": [1, 2]}))
    assert directory.read_bytes("a/b.bin") == b"content"
    assert directory.read_table("t.parquet", columns=["x"])["x"].to_pylist() == [1, 2]
    assert directory.files() == ["a/b.bin", "t.parquet"]
    assert (directory / "a").exists("b.bin")
    assert directory.uri.startswith(scheme)


def directories(path: Path) -> list[Directory]:
    """Return a directory of this machine, and one that is written to as an object store is."""
    store = fs.SubTreeFileSystem(str(path), fs.LocalFileSystem())
    return [Directory.at(path / "local"), Directory("store", store, "store")]


def write_half(directory: Directory, name: str) -> None:
    with directory.create(name) as stream:
        stream.write(b"half of it")
        raise OSError(28, "disk is full")


def test_a_file_written_piece_by_piece_is_whole_or_not_there(tmp_path: Path) -> None:
    for directory in directories(tmp_path):
        with directory.create("a/x") as stream:
            stream.write(b"one ")
            stream.write(b"two")
        assert directory.read_bytes("a/x") == b"one two"
        with pytest.raises(OSError, match="disk is full"):
            write_half(directory, "a/y")
        assert not directory.exists("a/y")


def test_a_digest_is_of_all_that_was_written() -> None:
    sink = io.BytesIO()
    stream = DigestingStream(sink)
    assert [stream.write(part) for part in (b"ab", b"", b"c")] == [2, 0, 1]
    assert sink.getvalue() == b"abc"
    assert (stream.size_bytes, stream.hexdigest()) == (3, xxhash.xxh3_128_hexdigest(b"abc"))


def test_a_file_reaches_the_disk_before_it_gets_its_name_and_then_its_new_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        calls.append(("rename", str(target)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    Directory.at(tmp_path).write_bytes("a/b/x", b"content")
    x = str(tmp_path / "a/b/x")
    assert calls == [
        ("fsync", f"{x}.part"),
        ("rename", x),
        ("fsync", str(tmp_path / "a/b")),
        ("fsync", str(tmp_path / "a")),
        ("fsync", str(tmp_path)),
    ]
    calls.clear()
    Directory.at(tmp_path).write_bytes("a/b/x", b"new")
    assert calls == [("fsync", f"{x}.part"), ("rename", x), ("fsync", str(tmp_path / "a/b"))]
    assert (tmp_path / "a/b/x").read_bytes() == b"new"


def test_a_file_gets_another_name(tmp_path: Path) -> None:
    directory = Directory.at(tmp_path)
    directory.write_bytes("x", b"content")
    directory.rename("x", "y")
    assert directory.files() == ["y"]


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Directory.at("data").uri == str(tmp_path / "data")


def test_deleting_removes_everything_and_may_be_repeated(tmp_path: Path) -> None:
    directory = Directory.at(tmp_path / "d")
    directory.write_bytes("x", b"")
    directory.delete()
    directory.delete()
    assert not directory.exists()
    assert directory.files() == []


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="ftp://host/x"):
        Directory.at("ftp://host/x")


def test_a_missing_file_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Directory.at(tmp_path).read_bytes("absent")
