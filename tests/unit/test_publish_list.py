"""`jobs.publish --list` shows every name whole, however narrow the terminal."""

import dataclasses

import pytest

from jobs.publish import print_whole, versions_table
from mind_dist.index.memory import InMemoryVectorStore
from tests.toy_serving import INFO


@pytest.mark.parametrize("columns", [20, 80, 400])
def test_no_name_is_cut_or_broken(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    store = InMemoryVectorStore()
    versions = [f"v{number:08}_0a1b2c3d" for number in range(3)]
    uris = [f"s3://a-bucket-with-a-long-name/models/{'deep/' * 30}{version}" for version in versions]
    for version, uri in zip(versions, uris, strict=True):
        store.create_version(dataclasses.replace(INFO, model_version=version, uri=uri))
    store.activate(versions[1])
    print_whole(versions_table(store))
    lines = capsys.readouterr().out.splitlines()
    for version, uri in zip(versions, uris, strict=True):
        [row] = [line for line in lines if version in line]
        assert uri in row
        assert ("active" in row) == (version == versions[1])
    assert not any("…" in line for line in lines)
