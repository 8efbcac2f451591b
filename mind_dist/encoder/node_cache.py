"""What serving needs of a version, in files that all processes of a node map: made once, by who comes first.

    {version}/about.json      written last: what it was made of, size and digest of the others
    {version}/*.bin           keys and vectors of items and of features, as arrays lie in memory
    {version}/catalog.arrow   the item catalog, one Arrow record batch

A version may lie in an object store, has optimizer state and counts, and its items' vectors must be computed first; at 10⁶
items each process would hold some GB of its own. Mapped files are held once, by the system, for all processes of a node.
Whoever makes them holds a lock, which ends with its process; what a killed one left has another name, and is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import xxhash

from mind_dist.checkpoint import FileEntry, ModelVersion
from mind_dist.config import parse
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.encoder.items import ServedItems, check_catalog, item_vectors
from mind_dist.encoder.reading import read_rows
from mind_dist.encoder.vectors import KeyedVectors
from mind_dist.errors import ConfigError
from mind_dist.model.item_tower import ItemTower
from mind_dist.records import Keys
from mind_dist.strict_json import from_json, to_json

logger = logging.getLogger(__name__)

_FORMAT = f"1, torch {torch.__version__}"  # another release may round otherwise
_KEPT = 8
_BLOCK_BYTES = 1 << 20
_CATALOG, _ABOUT = "catalog.arrow", "about.json"


@dataclass(frozen=True)
class About:
    """What the files of a version are.

    Attributes:
        format: Of this layout.
        source: Files of the version that they were made of.
        files: The files, by name.
        width: Width of a vector.
    """

    format: str
    source: dict[str, FileEntry]
    files: dict[str, FileEntry]
    width: int


def mapped_items(version: ModelVersion, tower: ItemTower, root: Path) -> ServedItems:
    """Return what serving needs of a version, mapped; made if it is not there, after the version was verified.

    Args:
        version: Opened, not verified yet.
        tower: Its item tower, in evaluation mode.
        root: Folder of the node for all versions. It is made; of its versions those used last are kept.

    Raises:
        VersionError: The version is torn or altered, or its catalog does not fit.
        OSError: The folder cannot be written to.
    """
    root.mkdir(parents=True, exist_ok=True)
    directory = root / version.manifest.model_version
    with _locked(root / f"{directory.name}.lock"):
        found = _opened(directory, version)
        if found is None:
            version.verify()
            _make(directory, version, tower)
            found = _opened(directory, version)
            assert found is not None, "what was just written reads back"
            logger.info("items mapped for this node", extra={"fields": {"directory": str(directory)}})
    _drop_oldest(root)
    return found


def _opened(directory: Path, version: ModelVersion) -> ServedItems | None:
    """Return the files mapped; None where they are not there, are damaged, or are not of this very version."""
    try:
        about = parse(About, from_json((directory / _ABOUT).read_bytes()), where=_ABOUT)
        if about.format != _FORMAT or about.source != version.manifest.files:
            return None
        if any(_entry(directory / name) != entry for name, entry in about.files.items()):
            return None
    except (OSError, ValueError, ConfigError):
        return None
    os.utime(directory)  # the oldest are dropped first
    items, features = (_keyed(directory, name, about.width) for name in ("items", "features"))
    with pa.memory_map(str(directory / _CATALOG)) as stream:
        return ServedItems(items, features, ItemCatalog(pa.ipc.open_file(stream).read_all()))


def _make(directory: Path, version: ModelVersion, tower: ItemTower) -> None:
    part = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    _write_catalog(part / _CATALOG, version)
    with pa.memory_map(str(part / _CATALOG)) as stream:
        catalog = ItemCatalog(pa.ipc.open_file(stream).read_all())
    check_catalog(version.uri, tower, catalog)
    width = version.model_config().row_dim
    rows = read_rows(version, width, part / "rows.scratch")
    features = rows.features()
    _write_keyed(part, "features", iter([(features.keys, features.vectors)]))
    _write_keyed(part, "items", item_vectors(tower, rows, catalog))
    (part / "rows.scratch").unlink(missing_ok=True)
    files = {path.name: _entry(path) for path in sorted(part.iterdir())}
    about = About(_FORMAT, version.manifest.files, files, width)
    (part / _ABOUT).write_text(to_json(asdict(about)))
    shutil.rmtree(directory, ignore_errors=True)  # who has it mapped keeps it
    part.rename(directory)


def _write_catalog(path: Path, version: ModelVersion) -> None:
    table = version.catalog().table.combine_chunks()  # of one chunk no lookup makes a copy
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    del table
    pa.default_memory_pool().release_unused()


def _write_keyed(directory: Path, name: str, parts: Iterator[tuple[Keys, torch.Tensor]]) -> None:
    with (directory / f"{name}_keys.bin").open("wb") as keys, (directory / f"{name}_vectors.bin").open("wb") as vectors:
        for some_keys, some_vectors in parts:
            keys.write(np.ascontiguousarray(some_keys).data)
            vectors.write(np.ascontiguousarray(some_vectors.numpy()).data)


def _keyed(directory: Path, name: str, width: int) -> KeyedVectors:
    paths = directory / f"{name}_keys.bin", directory / f"{name}_vectors.bin"
    if not paths[0].stat().st_size:  # nothing to map
        return KeyedVectors(np.empty(0, np.int64), torch.zeros(0, width))
    keys = np.memmap(paths[0], dtype=np.int64, mode="r")
    # "c": torch wants arrays that may be written to. Nobody does, so all pages stay the file's own.
    vectors = np.memmap(paths[1], dtype=np.float32, mode="c").reshape(-1, width)
    return KeyedVectors(keys, torch.from_numpy(vectors))


def _entry(path: Path) -> FileEntry:
    hasher, size_bytes = xxhash.xxh3_128(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            hasher.update(block)
            size_bytes += len(block)
    return FileEntry(size_bytes, hasher.hexdigest())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; the system lets go of it when its holder dies."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _drop_oldest(root: Path) -> None:
    """Remove the versions used longest ago; who has one mapped keeps its files as long."""
    found = [path for path in root.iterdir() if path.is_dir() and path.suffix != ".part"]
    for directory in sorted(found, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        with _locked(root / f"{directory.name}.lock"):
            shutil.rmtree(directory, ignore_errors=True)
