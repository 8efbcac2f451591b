"""Directories by URI — local paths, file://, s3://, gs:// — through pyarrow's filesystems."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pyarrow import fs

from mind_dist.errors import ConfigError

_BATCH_ROWS, _BATCH_BYTES = 1 << 15, 1 << 20

_PLAIN = "/=@:+,"
"""Characters that may stand in a URI's path as they are."""


class Writable(Protocol):
    """What takes bytes."""

    def write(self, content: bytes, /) -> int:
        """Take some, and return how many."""
        ...


class DigestingStream:
    """Writes on, and keeps in mind the size and digest (xxh3-128) of all that was written.

    Attributes:
        size_bytes: Of all of it.
        closed: Whether `close` was called; what is written to stays open.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream: Writable) -> None:
        self.size_bytes = 0
        self.closed = False
        self._stream = stream
        self._hasher = xxhash.xxh3_128()

    def write(self, content: bytes) -> int:
        """Write some bytes."""
        self._hasher.update(content)
        self._stream.write(content)
        self.size_bytes += len(content)
        return len(content)

    def hexdigest(self) -> str:
        """Return the digest."""
        return self._hasher.hexdigest()

    def flush(self) -> None:
        """Do nothing: what is written to will be flushed by whoever has it."""

    def close(self) -> None:
        """Take no more."""
        self.closed = True


@dataclass(frozen=True)
class Directory:
    """A directory somewhere, reachable from any machine that can reach its URI.

    Attributes:
        uri: As it was given, absolute if local; `Directory.at` opens it again. Settings of the filesystem such as
            `?endpoint_override=…` stay at its end.
        filesystem: Where it is.
        path: Its path there.
    """

    uri: str
    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str | Path) -> Directory:
        """Open a directory, which need not exist yet.

        Raises:
            ConfigError: The URI's scheme is not known.
        """
        text = str(uri)
        if "://" not in text:
            absolute = str(Path(text).expanduser().absolute())
            return cls(absolute, fs.LocalFileSystem(), absolute)
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(text, f"not a directory URI (local path, file://, s3://, gs://): {error}") from error
        head, mark, settings = text.partition("?")
        return cls(head.rstrip("/") + mark + settings, filesystem, path.rstrip("/"))

    def __truediv__(self, name: str) -> Directory:
        path = f"{self.path}/{name}"
        if "://" not in self.uri:
            return Directory(path, self.filesystem, path)
        head, mark, settings = self.uri.partition("?")
        return Directory(f"{head}/{quote(name, safe=_PLAIN)}{mark}{settings}", self.filesystem, path)

    def exists(self, name: str = "") -> bool:
        """Tell whether a file or directory is there."""
        return bool(self.filesystem.get_file_info(self._join(name)).type != fs.FileType.NotFound)

    def files(self, name: str = "") -> list[str]:
        """Return the paths of all files below, relative to this directory, sorted; none when it is missing."""
        selector = fs.FileSelector(self._join(name), recursive=True, allow_not_found=True)
        found = [info.path for info in self.filesystem.get_file_info(selector) if info.is_file]
        return sorted(path.removeprefix(self.path).lstrip("/") for path in found)

    def read_bytes(self, name: str) -> bytes:
        """Return a file's content; FileNotFoundError when it is missing."""
        with self.filesystem.open_input_stream(self._join(name)) as stream:
            return bytes(stream.read())

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read it in blocks; FileNotFoundError when it is missing."""
        return self.filesystem.open_input_stream(self._join(name))

    def write_bytes(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Write a file, whole or not at all; when this returns, it outlives a crash of the machine.

        An object store promises that by itself. On a local filesystem the content reaches the disk before the file gets
        its name, or a crash could leave the name of an empty file; what is not `durable` does not wait for the disk.
        """
        with self.create(name, durable=durable) as stream:
            stream.write(content)

    @contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[Writable]:
        """Open a file to write it piece by piece; it is there, as by `write_bytes`, at the end of the block alone."""
        path = self._join(name)
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with _whole_file(Path(path), durable=durable) as stream:
                yield stream
            return
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        try:
            with self.filesystem.open_output_stream(path) as stream:
                yield stream
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(path)  # closing has made a file of what was written
            raise

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name."""
        self.filesystem.move(self._join(name), self._join(new_name))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a Parquet file; FileNotFoundError when it is missing, ArrowInvalid when it is torn."""
        with self.filesystem.open_input_file(self._join(name)) as stream:
            return pq.read_table(stream, columns=columns)

    def read_batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of a Parquet file, some rows at a time; raises as `read_table` does."""
        with self.filesystem.open_input_file(self._join(name)) as stream:
            file = pq.ParquetFile(stream, buffer_size=_BATCH_BYTES, pre_buffer=False)
            yield from file.iter_batches(_BATCH_ROWS, columns=list(columns))

    def write_table(
        self, name: str, table: pa.Table, *, scratch: bool = False, rows_at_once: int | None = None
    ) -> None:
        """Write a Parquet file.

        Args:
            name: Its path below this directory.
            table: Its content.
            scratch: It is read once and need not outlive a crash: written in a quarter of the time, without
                dictionaries.
            rows_at_once: Rows of a row group; None for the library's own choice.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, use_dictionary=not scratch, row_group_size=rows_at_once)
        self.write_bytes(name, sink.getvalue().to_pybytes(), durable=not scratch)

    def delete(self) -> None:
        """Remove the directory and all below it, or the file; nothing happens when it is missing."""
        kind = self.filesystem.get_file_info(self.path).type
        if kind == fs.FileType.File:
            self.filesystem.delete_file(self.path)
        elif kind != fs.FileType.NotFound:
            self.filesystem.delete_dir(self.path)

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path


@contextmanager
def _whole_file(path: Path, *, durable: bool) -> Iterator[Writable]:
    fresh = [directory for directory in path.parents if not directory.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as stream:
        yield stream
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    part.replace(path)
    if not durable:
        return
    for directory in (path.parent, *(directory.parent for directory in fresh)):
        _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    """Let the names in a directory reach the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a filesystem answers that has no such call
            raise
    finally:
        os.close(descriptor)
