"""Files → raw tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mind_dist.config import FilesConfig
from mind_dist.dataset.raw_log import list_files, list_fragments, plain, read_all, read_fragment
from mind_dist.errors import DatasetError

COLUMNS = {"user": "u", "time": "t"}


def csv(path: Path, text: str | bytes, delimiter: str = ",", quote: str = '"') -> FilesConfig:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return FilesConfig((str(path),), "csv", delimiter, quote)


def test_csv_is_read_as_texts_with_empty_as_null(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.csv", 'u,x,t\n1,"a,b",\n02,,5\n')
    assert read_all(config, COLUMNS).to_pylist() == [{"user": "1", "time": None}, {"user": "02", "time": "5"}]


def test_recbole_headers_lose_their_types_and_quotes_mean_nothing(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.inter", 'u:token\tt:float\n"1\t2\n', "\t", "")
    assert read_all(config, COLUMNS).to_pylist() == [{"user": '"1', "time": "2"}]


def test_a_compressed_csv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.csv.gz", gzip.compress("\ufeffu,t\r\n1,2\r\n".encode()))
    assert read_all(config, COLUMNS).to_pylist() == [{"user": "1", "time": "2"}]


def test_lines_with_too_few_values_are_handed_over_as_they_are(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.csv", "u,t\n1,2\n3\n4,5,6\n7,8\n")
    batches = [batch for part in list_fragments(config) for batch in read_fragment(config, part, COLUMNS)]
    assert [row["user"] for batch in batches for row in batch.table.to_pylist()] == ["1", "7"]
    assert [line for batch in batches for line in batch.malformed] == ["3", "4,5,6"]


def test_a_stray_quote_costs_every_line_that_it_swallows(tmp_path: Path) -> None:
    lines = [f"{n},{n}" for n in range(50)]
    lines[10] = '"10,10'
    config = csv(tmp_path / "log.csv", "\n".join(["u,t", *lines]) + "\n")
    batches = [batch for part in list_fragments(config) for batch in read_fragment(config, part, COLUMNS)]
    kept = [user for batch in batches for user in batch.table["user"].to_pylist()]
    assert len(kept) + sum(len(batch.malformed) for batch in batches) == 50
    assert kept[:10] == [str(n) for n in range(10)]


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"log\.csv: is empty, without even a header line: remove it"):
        read_all(csv(tmp_path / "log.csv", ""), COLUMNS)


def test_bytes_that_are_no_text_do_not_stop_the_file(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.csv", b"u,t\n\xff,2\n,4\n3,4\n")
    assert read_all(config, COLUMNS)["user"].to_pylist() == ["\N{REPLACEMENT CHARACTER}", None, "3"]


def test_parquet_is_read_by_row_group_in_order(tmp_path: Path) -> None:
    for name, start in (("b", 10), ("a", 0)):
        pq.write_table(pa.table({"u": range(start, start + 4), "t": [0] * 4}), tmp_path / f"{name}.parquet", 2)
    config = FilesConfig((str(tmp_path),))
    assert [(Path(part.uri).name[0], part.row_group) for part in list_fragments(config)] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    assert read_all(config, COLUMNS)["user"].to_pylist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_hidden_files_of_a_directory_are_left_out(tmp_path: Path) -> None:
    for name in ("_SUCCESS", ".crc", "a.csv", "_temporary/b.csv", "day=1/c.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("u,t\n")
    names = [Path(uri).name for uri in list_files(FilesConfig((str(tmp_path),), "csv"))]
    assert names == ["a.csv", "c.csv"]


def test_a_missing_or_empty_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no such file"):
        list_files(FilesConfig((str(tmp_path / "nowhere"),)))
    with pytest.raises(DatasetError, match="has no files"):
        list_files(FilesConfig((str(tmp_path),)))


def test_a_relative_path_that_is_missing_is_named_by_the_path_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=f"^{tmp_path}/raw/nowhere.csv: no such file"):
        list_files(FilesConfig(("raw/nowhere.csv",), "csv"))


def test_texts_that_parquet_calls_binary_are_texts() -> None:
    assert plain(pa.array([b"a", None, b"\xff"])).to_pylist() == ["a", None, "\N{REPLACEMENT CHARACTER}"]
    assert plain(pa.array([b"a"], pa.binary_view())).to_pylist() == ["a"]
    assert plain(pa.array([b"a", b"a"]).dictionary_encode()).to_pylist() == ["a", "a"]
    assert plain(pa.array([1.5, float("nan")], pa.float16())).to_pylist() == [1.5, None]


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.csv: no column t; it has u, x"):
        read_all(csv(tmp_path / "a.csv", "u,x\n1,2\n"), COLUMNS)
    pq.write_table(pa.table({"t": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"a\.parquet: no column u; it has t"):
        read_all(FilesConfig((str(tmp_path / "a.parquet"),)), COLUMNS)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DatasetError, match=r"a\.parquet: cannot be read as parquet"):
        list_fragments(FilesConfig((str(tmp_path / "a.parquet"),)))
    with pytest.raises(DatasetError, match=r"a\.csv: is empty, without even a header line"):
        read_all(csv(tmp_path / "a.csv", ""), COLUMNS)


def test_files_whose_types_do_not_go_together_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [[1]], "t": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"u": ["x"], "t": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DatasetError, match=f"{tmp_path}: cannot be read as parquet"):
        read_all(FilesConfig((str(tmp_path),)), COLUMNS)
