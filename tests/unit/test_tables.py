"""Jobs show names and figures whole, however narrow the terminal."""

import dataclasses

import pytest
from rich.table import Table

from jobs.publish import versions_table
from jobs.tables import print_readable, print_whole
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


@pytest.mark.parametrize("columns", [20, 80, 400])
def test_no_figure_is_cut_and_texts_are_wrapped(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"a recommender of number {number}" for number in range(6)]
    table = Table("metric", *names)
    for row in range(3):
        table.add_row(f"recall@{row}", *(f"0.{row}{place}07" for place in range(6)))
    print_readable(table)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert all(f"0.{row}{place}07" in printed for row in range(3) for place in range(6))
    assert len(printed.splitlines()[0]) <= max(columns, 130)
