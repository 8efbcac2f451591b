"""The files of a version: written by each worker, read by whoever uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from mind_dist.checkpoint.manifest import (
    CATALOG,
    DENSE,
    MANIFEST,
    OPTIMIZER,
    FileEntry,
    Manifest,
    history_name,
    read_manifest,
    shard_name,
    waiting_name,
)
from mind_dist.checkpoint.rows import SightingCounts, TableRows
from mind_dist.config import ModelConfig, TrainingConfig, parse
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import sequences_table
from mind_dist.errors import ConfigError, VersionError
from mind_dist.log.codec import encode_key
from mind_dist.log.partitioner import key_hash
from mind_dist.records import BehaviorSequence, Keys, UserHistory
from mind_dist.storage import DigestingStream, Directory

C = TypeVar("C")

_BLOCK_BYTES = 1 << 20
_COMPRESSION = "none"
"""Of Parquet files: vectors do not shrink."""


@dataclass
class VersionWriter:
    """Writes one worker's parts of a version.

    Attributes:
        directory: The version's directory, shared by all workers.
        files: What was written so far; `seal` takes those of all workers together.
    """

    directory: Directory
    files: dict[str, FileEntry] = field(default_factory=dict)

    def write_dense(self, state: Mapping[str, Tensor]) -> None:
        """Write the dense parameters."""
        self._write(DENSE, _encode_state(state))

    def write_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Write the dense parameters' optimizer state."""
        self._write(OPTIMIZER, _encode_state(state))

    def write_item_shard(self, shard: int, num_shards: int, parts: Iterable[TableRows]) -> None:
        """Write one worker's rows of the item table; every shard must be written, empty ones too.

        Args:
            shard: Which.
            num_shards: How many there are.
            parts: Its rows, one part at least; no two of them need be in memory at a time.
        """
        name, tables = shard_name(shard, num_shards), (part.to_table() for part in parts)
        first = next(tables)
        with self.directory.create(name) as file:
            digesting = DigestingStream(file)
            with pq.ParquetWriter(digesting, first.schema, compression=_COMPRESSION) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
        self.files[name] = FileEntry(digesting.size_bytes, digesting.hexdigest())

    def write_waiting(self, shard: int, num_shards: int, sightings: SightingCounts) -> None:
        """Write one worker's items that have no row yet, if there are any."""
        if len(sightings.keys):
            self._write(waiting_name(shard, num_shards), _encode_table(sightings.to_table()))

    def write_history(self, partition: int, histories: Sequence[UserHistory]) -> None:
        """Write the histories of a partition's users."""
        ordered = sorted(histories, key=lambda history: history.sequence.user_key)
        sequences = [history.sequence for history in ordered]
        profiles = pa.array([sequence.profile_keys for sequence in sequences], pa.list_(pa.int64()))
        key_hashes = pa.array([history.key_hash for history in ordered], pa.int64())
        table = sequences_table(sequences).append_column("profile_keys", profiles)
        if any(sequence.behavior_keys.size for sequence in sequences):
            kinds = pa.array([sequence.behavior_keys.ravel() for sequence in sequences], pa.list_(pa.int64()))
            table = table.append_column("behavior_keys", kinds)
        self._write(history_name(partition), _encode_table(table.append_column("key_hash", key_hashes)))

    def write_catalog(self, catalog: ItemCatalog) -> None:
        """Write the item catalog."""
        self._write(CATALOG, _encode_table(catalog.table))

    def _write(self, name: str, content: bytes) -> None:
        self.directory.write_bytes(name, content)
        self.files[name] = FileEntry(len(content), xxhash.xxh3_128_hexdigest(content))


@dataclass(frozen=True)
class ModelVersion:
    """A model version that has been checked to be there, whole and unaltered.

    Every method raises `VersionError` naming the file when the version does not have it or it cannot be read.

    Attributes:
        directory: Where it is.
        manifest: What it is.
    """

    directory: Directory
    manifest: Manifest

    @property
    def uri(self) -> str:
        """Return where it is."""
        return self.directory.uri

    @classmethod
    def open(cls, uri: str, *, verify: bool = True) -> ModelVersion:
        """Open a version: the manifest first, then, with `verify`, the size and digest of each file it names.

        Raises:
            VersionError: The version is missing, torn, altered or of another format.
        """
        directory = Directory.at(uri)
        version = cls(directory, read_manifest(directory))
        if verify:
            version.verify()
        return version

    def verify(self, names: Collection[str] | None = None) -> None:
        """Compare files with the manifest, a block at a time.

        Args:
            names: Which; None for all.

        Raises:
            VersionError: One is missing or differs.
        """
        for name, entry in self.manifest.files.items():
            if names is not None and name not in names:
                continue
            found = self._entry(name)
            if found != entry:
                problem = f"{name} is torn or altered: {found.size_bytes} bytes of digest {found.digest}"
                raise self._error(f"{problem}, the manifest says {entry.size_bytes} of {entry.digest}")

    def model_config(self) -> ModelConfig:
        """Return the model's settings."""
        return self._config(ModelConfig, "model")

    def training_config(self) -> TrainingConfig:
        """Return the settings it was trained with."""
        return self._config(TrainingConfig, "training")

    def dense(self) -> dict[str, Tensor]:
        """Return the dense parameters."""
        return self._read_state(DENSE)

    def optimizer(self) -> dict[str, Tensor]:
        """Return the dense parameters' optimizer state."""
        return self._read_state(OPTIMIZER)

    def items(self) -> TableRows:
        """Return the rows of all shards, in ascending key order."""
        names = [name for name in self.manifest.files if name.startswith("items/")]
        rows = TableRows.from_tables([self._read_table(name) for name in names])
        if bool((np.diff(rows.keys) == 0).any()):
            raise self._error("a key is in two item shards")
        return rows

    def item_parts(self) -> Iterator[TableRows]:
        """Yield the rows of all shards, some at a time, in the order of the files."""
        for batch in self.item_batches([column.name for column in fields(TableRows)]):
            yield TableRows.from_table(pa.Table.from_batches([batch]))

    def item_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of all shards, in the order of the files, some rows at a time."""
        for name in (name for name in self.manifest.files if name.startswith("items/")):
            try:
                yield from self.directory.read_batches(name, columns)
            except (OSError, pa.ArrowException) as error:
                raise self._error(f"{name} is missing or torn: {error}") from error

    def waiting(self) -> SightingCounts:
        """Return the items of all shards that were seen too seldom to have a row, ascending."""
        names = [name for name in self.manifest.files if name.startswith("waiting/")]
        return SightingCounts.from_tables([self._read_table(name) for name in names])

    def history(self, partition: int) -> list[UserHistory]:
        """Return the histories of a partition's users, by user key; none where the version keeps none for it.

        Versions of earlier releases have no column `key_hash`: it follows from an int64 id, and is -1 for others.
        """
        name = history_name(partition)
        if name not in self.manifest.files:
            return []
        table = self._read_table(name)
        users = table["user_id"].to_pylist()
        lists = (_to_lists(table[column]) for column in ("item_ids", "timestamps_ms", "profile_keys"))
        sequences = [BehaviorSequence(*parts) for parts in zip(users, *lists, strict=True)]
        if "behavior_keys" in table.column_names:
            kinds = zip(sequences, _to_lists(table["behavior_keys"]), strict=True)
            sequences = [replace(each, behavior_keys=keys.reshape(len(each), -1)) for each, keys in kinds]
        return [UserHistory(*pair) for pair in zip(sequences, self._key_hashes(table, users), strict=True)]

    def _key_hashes(self, table: pa.Table, users: list[int]) -> list[int]:
        if "key_hash" in table.column_names:
            hashes: list[int] = table["key_hash"].to_pylist()
            return hashes
        known = self.manifest.id_type == "int64"
        return [key_hash(encode_key(user)) if known else -1 for user in users]

    def catalog(self) -> ItemCatalog:
        """Return the item catalog."""
        return ItemCatalog(self._read_table(CATALOG))

    def _config(self, kind: type[C], section: str) -> C:
        try:
            return parse(kind, self.manifest.config.get(section), where=section)
        except ConfigError as error:
            raise self._error(f"{MANIFEST}: {error}") from error

    def _entry(self, name: str) -> FileEntry:
        hasher, size_bytes = xxhash.xxh3_128(), 0
        try:
            with self.directory.open(name) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    hasher.update(block)
                    size_bytes += len(block)
        except OSError as error:
            raise self._error(f"{name} is missing or cannot be read: {error}") from error
        return FileEntry(size_bytes, hasher.hexdigest())

    def _read_state(self, name: str) -> dict[str, Tensor]:
        try:
            return safetensors.load(self.directory.read_bytes(name))
        except (OSError, SafetensorError) as error:
            raise self._error(f"{name} is missing or torn: {error}") from error

    def _read_table(self, name: str) -> pa.Table:
        try:
            return self.directory.read_table(name)
        except (OSError, pa.ArrowException) as error:
            raise self._error(f"{name} is missing or torn: {error}") from error

    def _error(self, problem: str) -> VersionError:
        return VersionError(self.directory.uri, problem)


def _encode_state(state: Mapping[str, Tensor]) -> bytes:
    return safetensors.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def _encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=_COMPRESSION)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _to_lists(column: pa.ChunkedArray) -> list[Keys]:
    """Return a column of lists as one array a row."""
    lists = column.combine_chunks()
    lengths = np.asarray(lists.value_lengths().to_numpy(), dtype=np.int64)
    values = np.asarray(lists.flatten().to_numpy(), dtype=np.int64)
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
