"""What makes a version whole: its manifest, sealed last and read first."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from mind_dist.config import parse
from mind_dist.errors import ConfigError, VersionError
from mind_dist.keys import IdType
from mind_dist.log.identity import LogIdentity
from mind_dist.records import PartTrained
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json, to_json

FORMAT_VERSION = 4

MANIFEST = "manifest.json"
DENSE = "dense.safetensors"
OPTIMIZER = "optimizer.safetensors"
CATALOG = "catalog.parquet"
HISTORIES = "history/"
"""Where users' histories are, in versions trained on a log."""


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of a file.

    Attributes:
        size_bytes: Its size.
        digest: xxh3-128 of its content, in hex.
    """

    size_bytes: int
    digest: str


@dataclass(frozen=True)
class WatchState:
    """What the valid users have said of a run so far.

    Attributes:
        first_cycle: Steps of the first cycle of the learning rate; 0 where the run's length is set.
        looked_at: Step of the last evaluation.
        best: Best valid recall; 0 before the first evaluation.
        best_step: The step that had it.
        before: Best valid recall when the last cycle but one was over.
        num_without_gain: Cycles in a row that have not raised it enough.
        is_over: Whether they were so many that the run has ended.
    """

    first_cycle: int = 0
    looked_at: int = 0
    best: float = 0.0
    best_step: int = 0
    before: float = 0.0
    num_without_gain: int = 0
    is_over: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a model version is.

    Attributes:
        format_version: Version of this layout.
        model_version: Its name; the same content has the same name.
        created_ms: When it was sealed.
        config: Plain JSON values: `model`, `training`, `item_features`, `item_columns`, `profile_features`,
            `event_types`.
        id_type: What ids are outside.
        step: Training step.
        watermark_ms: Time of the newest event trained on.
        positions: Partition → the position after its last trained event.
        metrics: Metrics by name; one that is not defined is left out.
        source: URI of what it was trained on.
        files: Every other file, by its path in the directory.
        part_trained: Partition → parts of which only some records are trained: the topic has grown.
        dataset_digest: `PreparedDataset.digest` of the dataset behind it.
        watch: What the valid users have said of the run so far.
        log: Whose positions they are, where it was trained on an event log.
        known_until_ms: Up to when events of the log were not trained, but known to what the run began with.
    """

    format_version: int
    model_version: str
    created_ms: int
    config: dict[str, Any]
    id_type: IdType
    step: int
    watermark_ms: int
    positions: dict[int, int]
    metrics: dict[str, float]
    source: str
    files: dict[str, FileEntry]
    part_trained: dict[int, list[PartTrained]] = field(default_factory=dict)
    dataset_digest: str = ""
    watch: WatchState = field(default_factory=WatchState)
    log: LogIdentity | None = None
    known_until_ms: int = -1

    @property
    def event_types(self) -> tuple[str, ...]:
        """Types of the events that the version takes as behaviors; empty where it takes events of every type."""
        return tuple(self.config.get("event_types", ()))


_NOT_WATCHED = WatchState()


def seal(
    directory: Directory,
    files: Mapping[str, FileEntry],
    *,
    config: Mapping[str, Any],
    id_type: IdType,
    step: int,
    watermark_ms: int,
    positions: Mapping[int, int],
    metrics: Mapping[str, float],
    source: str,
    part_trained: Mapping[int, Sequence[PartTrained]] | None = None,
    dataset_digest: str = "",
    watch: WatchState = _NOT_WATCHED,
    log: LogIdentity | None = None,
    known_until_ms: int = -1,
) -> Manifest:
    """Write the manifest, which makes a version whole: when every file of every worker is written.

    Raises:
        ValueError: A part is missing from `files`.
    """
    absent = _missing_parts(files)
    if absent:
        raise ValueError(f"a version cannot be sealed without {', '.join(absent)}")
    listed = dict(sorted(files.items()))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_version=_version_name(step, config, listed),
        created_ms=time.time_ns() // 1_000_000,
        config=dict(config),
        id_type=id_type,
        step=step,
        watermark_ms=watermark_ms,
        positions=dict(positions),
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        source=source,
        files=listed,
        part_trained={partition: list(parts) for partition, parts in (part_trained or {}).items()},
        dataset_digest=dataset_digest,
        watch=watch,
        log=log,
        known_until_ms=known_until_ms,
    )
    directory.write_bytes(MANIFEST, encode_manifest(manifest))
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the content of a manifest's file, with a digest of itself."""
    values = from_json(to_json(dataclasses.asdict(manifest)))  # partitions as texts, which sort otherwise: 10 < 2
    return to_json({**values, "digest": _digest_of(values)}, indent=2).encode()


def read_manifest(directory: Directory) -> Manifest:
    """Read and check the manifest.

    Raises:
        VersionError: It is missing, torn, altered or of another format.
    """
    try:
        content = directory.read_bytes(MANIFEST)
    except OSError as error:
        raise VersionError(directory.uri, f"no {MANIFEST}: not a model version, or its save was cut off") from error
    return parse_manifest(directory.uri, content)


def parse_manifest(uri: str, content: bytes) -> Manifest:
    """Check the content of the manifest of the version at a URI.

    Raises:
        VersionError: It is torn, altered or of another format.
    """
    try:
        values = from_json(content)
        found = values.pop("digest", None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise VersionError(uri, f"{MANIFEST} is torn: {error}") from error
    if values.get("format_version") != FORMAT_VERSION:
        found_version = values.get("format_version")
        problem = (
            f"{MANIFEST} has format version {found_version}, this release reads {FORMAT_VERSION}: train it anew, or "
        )
        problem += "read it with the release that wrote it"
        raise VersionError(uri, problem)
    if found != _digest_of(values):
        raise VersionError(uri, f"{MANIFEST} is altered: its content does not fit its digest")
    try:
        return parse(Manifest, values, where=MANIFEST)
    except ConfigError as error:
        raise VersionError(uri, str(error)) from error


def shard_name(shard: int, num_shards: int) -> str:
    """Return the path of a worker's rows of the item table."""
    return f"items/shard-{shard:05d}-of-{num_shards:05d}.parquet"


def waiting_name(shard: int, num_shards: int) -> str:
    """Return the path of a worker's items that have no row yet."""
    return f"waiting/shard-{shard:05d}-of-{num_shards:05d}.parquet"


def history_name(partition: int) -> str:
    """Return the path of a partition's histories."""
    return f"{HISTORIES}partition-{partition:05d}.parquet"


def _missing_parts(files: Mapping[str, FileEntry]) -> list[str]:
    """Return the names of the parts without which a version is not whole."""
    totals = [int(name.removesuffix(".parquet").rpartition("-")[2]) for name in files if name.startswith("items/")]
    num_shards = max(totals, default=1)
    needed = [DENSE, OPTIMIZER, CATALOG, *(shard_name(shard, num_shards) for shard in range(num_shards))]
    return [name for name in needed if name not in files]


def _version_name(step: int, config: Mapping[str, Any], files: Mapping[str, FileEntry]) -> str:
    """Return a name that follows the content, and is a valid end of a collection's name."""
    digests = {name: entry.digest for name, entry in files.items()}
    return f"v{step:08d}_{_digest_of({'config': config, 'files': digests})[:8]}"


def _digest_of(values: object) -> str:
    """Return the digest of plain JSON values."""
    return xxhash.xxh3_128_hexdigest(to_json(values, sort_keys=True).encode())
