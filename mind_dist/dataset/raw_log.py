"""Files → raw tables: Parquet, or CSV read as texts, in parts that many workers can take and a fixed order."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import compute as pc
from pyarrow import fs

from mind_dist.config import FilesConfig, LogConfig
from mind_dist.dataset.event_values import values_column
from mind_dist.errors import DatasetError
from mind_dist.storage import Directory

_BATCH_ROWS = 1 << 19
_CSV_BLOCK_BYTES = 1 << 24
_HEADER_BYTES = 1 << 20
_RECBOLE_TYPES = (":token", ":token_seq", ":float", ":float_seq")

Columns = Mapping[str, str]
"""Name to give a column → its name in the files."""


@dataclass(frozen=True)
class Fragment:
    """A part of a log that is read in order by one worker.

    Attributes:
        index: Its place among all parts; the order of the log is by part, then by row.
        uri: The file.
        row_group: The Parquet row group; a CSV file is one part, -1.
    """

    index: int
    uri: str
    row_group: int = -1


@dataclass(frozen=True)
class RawBatch:
    """Rows as they stand in a file.

    Attributes:
        table: The wanted columns; texts from CSV, any type from Parquet.
        malformed: Lines of the CSV with too few or too many values.
    """

    table: pa.Table
    malformed: Sequence[str] = field(default=())


def list_files(config: FilesConfig) -> list[str]:
    """Return the URIs of all files, in the order of `paths` and by name within a directory.

    Raises:
        DatasetError: A path is missing, or a directory has no files.
    """
    return [uri for path in config.paths for uri in _files_at(path)]


def _files_at(path: str) -> list[str]:
    place = Directory.at(path)
    kind = place.filesystem.get_file_info(place.path).type
    if kind == fs.FileType.NotFound:
        raise DatasetError(place.uri, "no such file or directory")
    if kind == fs.FileType.File:
        return [place.uri]
    names = [name for name in place.files() if not any(part[0] in "._" for part in name.split("/"))]
    if not names:
        raise DatasetError(place.uri, "the directory has no files")
    return [(place / name).uri for name in names]


def list_fragments(config: FilesConfig) -> list[Fragment]:
    """Return all parts of a log in its order.

    Raises:
        DatasetError: A path is missing, or a file is torn.
    """
    found = [(uri, group) for uri in list_files(config) for group in _row_groups(uri, config)]
    return [Fragment(index, uri, group) for index, (uri, group) in enumerate(found)]


def _row_groups(uri: str, config: FilesConfig) -> Sequence[int]:
    if config.format == "csv":
        return (-1,)
    with _naming(uri, config), _open(uri) as stream:
        return range(pq.ParquetFile(stream).num_row_groups)


def log_columns(log: LogConfig) -> Columns:
    """Return the columns of the raw log by what they are."""
    columns = {"user": log.user_column, "item": log.item_column, "timestamp": log.timestamp_column}
    columns |= {"event_type": log.event_type_column} if log.event_type_column else {}
    return columns | {values_column(name): name for name in log.value_names if name != "event_type"}


def read_fragment(
    config: FilesConfig, fragment: Fragment, columns: Columns, *, batch_rows: int = _BATCH_ROWS
) -> Iterator[RawBatch]:
    """Yield a part's rows in order, in batches that fit into memory.

    Args:
        config: How the file is read.
        fragment: The part.
        columns: The wanted columns.
        batch_rows: Rows of a batch of Parquet; of CSV, blocks are smaller when it is.

    Raises:
        DatasetError: The file is torn, or lacks a column.
    """
    read = _read_csv if config.format == "csv" else _read_parquet
    with _naming(fragment.uri, config):
        yield from read(config, fragment, columns, batch_rows)


def read_all(config: FilesConfig, columns: Columns) -> pa.Table:
    """Return all rows of small files as one table; malformed CSV lines are left out.

    Raises:
        DatasetError: A path is missing, a file is torn or lacks a column.
    """
    batches = [batch for part in list_fragments(config) for batch in read_fragment(config, part, columns)]
    empty = pa.table({name: pa.array([], pa.null()) for name in columns})
    with _naming(", ".join(config.paths), config):
        return pa.concat_tables([empty, *(batch.table for batch in batches)], promote_options="permissive")


@contextmanager
def _naming(uri: str, config: FilesConfig) -> Iterator[None]:
    """Turn errors of reading into one that names the file."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(uri, f"cannot be read as {config.format}: {error}") from error


def _open(uri: str) -> Any:
    place = Directory.at(uri)
    return place.filesystem.open_input_file(place.path)


def _read_parquet(_config: FilesConfig, fragment: Fragment, columns: Columns, batch_rows: int) -> Iterator[RawBatch]:
    with _open(fragment.uri) as stream:
        file = pq.ParquetFile(stream)
        _check_columns(fragment.uri, columns, file.schema_arrow.names)
        wanted = sorted(set(columns.values()))
        for batch in file.iter_batches(batch_rows, row_groups=[fragment.row_group], columns=wanted):
            yield RawBatch(pa.table({name: batch.column(source) for name, source in columns.items()}))


def _read_csv(config: FilesConfig, fragment: Fragment, columns: Columns, batch_rows: int) -> Iterator[RawBatch]:
    header = _csv_header(fragment.uri, config)
    _check_columns(fragment.uri, columns, list(header))
    malformed: list[str] = []

    def keep_line(row: Any) -> str:
        malformed.extend(row.text.splitlines() or [row.text])  # a stray quote swallows all lines up to the next one
        return "skip"

    wanted = sorted({header[source] for source in columns.values()})
    block_bytes = _CSV_BLOCK_BYTES if batch_rows >= _BATCH_ROWS else _HEADER_BYTES
    place = Directory.at(fragment.uri)
    with place.filesystem.open_input_stream(place.path) as stream:  # decompresses by the file's extension
        for batch in pyarrow.csv.open_csv(stream, *_csv_options(config, wanted, keep_line, block_bytes)):
            lines, malformed[:] = tuple(malformed), ()
            texts = {name: _texts(batch.column(header[source])) for name, source in columns.items()}
            yield RawBatch(pa.table(texts), lines)
    if malformed:
        yield RawBatch(pa.table({name: pa.array([], pa.string()) for name in columns}), tuple(malformed))


def _csv_options(config: FilesConfig, wanted: list[str], keep_line: Any, block_bytes: int) -> tuple[Any, Any, Any]:
    reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=block_bytes)
    parsing = pyarrow.csv.ParseOptions(
        delimiter=config.delimiter, quote_char=config.quote or False, invalid_row_handler=keep_line
    )
    # Bytes, not texts: one that is not UTF-8 must not stop the file.
    converting = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.binary()),
        include_columns=wanted,
        null_values=[""],
        strings_can_be_null=True,
    )
    return reading, parsing, converting


def _csv_header(uri: str, config: FilesConfig) -> dict[str, str]:
    """Return the column names without RecBole's types → as they stand in the file."""
    place = Directory.at(uri)
    with place.filesystem.open_input_stream(place.path) as stream:
        line = stream.read(_HEADER_BYTES).partition(b"\n")[0].decode("utf-8-sig").rstrip("\r")
    quoting = {"quotechar": config.quote} if config.quote else {"quoting": csv.QUOTE_NONE}
    names = next(csv.reader([line], delimiter=config.delimiter, **quoting), [])
    return {_without_type(name): name for name in names}


def _without_type(name: str) -> str:
    ending = next((ending for ending in _RECBOLE_TYPES if name.endswith(ending)), "")
    return name.removesuffix(ending)


def _texts(column: pa.Array) -> pa.Array:
    """Decode UTF-8; bytes that are not become the replacement character."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        decoded = [None if value is None else value.decode(errors="replace") for value in column.to_pylist()]
        return pa.array(decoded, pa.string())


def plain(values: pa.Array) -> pa.Array:
    """Return any kind of text as string, dictionaries as their values, NaN as null."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return plain(values.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if _is_binary(kind):  # Hive and Impala write texts so
        return _texts(values)
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(values), None, values)
    return values


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _check_columns(uri: str, columns: Columns, found: Sequence[str]) -> None:
    if not found:
        raise DatasetError(uri, "is empty, without even a header line: remove it, or leave it out of the paths")
    missing = sorted(set(columns.values()) - set(found))
    if missing:
        raise DatasetError(uri, f"no column {', '.join(missing)}; it has {', '.join(found)}")
