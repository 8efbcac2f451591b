"""Directories of an object store whose settings stand in the URI, on an S3 server."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mind_dist.config import FilesConfig
from mind_dist.dataset.raw_log import list_files, read_all
from mind_dist.errors import ConfigError, DatasetError, VersionError, without_secrets
from mind_dist.storage import Directory


def test_children_are_named_before_the_settings(s3_bucket: str) -> None:
    directory = Directory.at(s3_bucket)
    head, _, settings = s3_bucket.partition("?")
    child = directory / "a" / "b c=1%.parquet"
    assert child.uri == f"{head}/a/b%20c=1%25.parquet?{settings}"
    child.write_bytes("", b"content")
    assert Directory.at(child.uri).path == child.path
    assert Directory.at(child.uri).read_bytes("") == b"content"
    assert directory.files() == ["a/b c=1%.parquet"]


def test_what_is_written_is_read_back_and_deleted(s3_bucket: str) -> None:
    directory = Directory.at(s3_bucket) / "new"
    directory.write_table("t.parquet", pa.table({"x": [1, 2]}))
    assert directory.exists("t.parquet")
    assert Directory.at(directory.uri).read_table("t.parquet")["x"].to_pylist() == [1, 2]
    directory.delete()
    assert directory.files() == []


def test_a_log_below_a_uri_with_settings_is_read(s3_bucket: str) -> None:
    directory = Directory.at(s3_bucket) / "logs"
    for name in ("day=1/a b.csv", "day=2/c#.csv", "day=3/d?e.csv"):
        directory.write_bytes(name, f"u\n{name[4]}\n".encode())
    config = FilesConfig((directory.uri,), "csv")
    assert len(list_files(config)) == 3
    assert read_all(config, {"user": "u"})["user"].to_pylist() == ["1", "2", "3"]


def test_a_missing_file_is_named_as_it_was_asked_for_without_its_secrets(s3_bucket: str) -> None:
    head, _, settings = s3_bucket.partition("?")
    with pytest.raises(DatasetError) as stopped:
        list_files(FilesConfig((f"{head}/nowhere?{settings}",)))
    shown = "s3://***@" + head.partition("@")[2]
    assert str(stopped.value) == f"{shown}/nowhere?{settings}: no such file or directory"


def test_a_file_uri_may_hold_any_name(tmp_path: object) -> None:
    directory = Directory.at(f"file://{tmp_path}")
    child = directory / "a b?c#d%.parquet"
    pq.write_table(pa.table({"x": [1]}), child.path)
    assert Directory.at(child.uri).read_table("")["x"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:secret@bucket/data", "s3://***@bucket/data"),
        ("s3://key:se%2Fcret@b/d?region=eu", "s3://***@b/d?region=eu"),
        ("s3://b/d?region=eu&secret_key=abc&scheme=http", "s3://b/d?region=eu&secret_key=***&scheme=http"),
        ("gs://b/d?access_token=abc", "gs://b/d?access_token=***"),
        ("abfs://container@account.dfs.core.windows.net/d", "abfs://container@account.dfs.core.windows.net/d"),
        ("/data/a@b:c", "/data/a@b:c"),
    ],
)
def test_no_error_shows_a_secret_of_a_uri(uri: str, shown: str) -> None:
    assert without_secrets(f"{uri}: torn") == f"{shown}: torn"
    for kind in (DatasetError, VersionError, ConfigError):
        assert str(kind(uri, f"cannot open {uri!r}")) == f"{shown}: cannot open {shown!r}"


def test_an_address_that_cannot_be_opened_shows_no_secret() -> None:
    with pytest.raises(ConfigError, match=r"s3://\*\*\*@b/d\?secret_key=\*\*\*: not a directory URI") as stopped:
        Directory.at("s3://key:hidden1@b/d?secret_key=hidden2")
    assert "hidden" not in str(stopped.value)
