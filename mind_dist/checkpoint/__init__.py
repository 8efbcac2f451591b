"""A model version on disk: what a checkpoint is, and all that publishing and serving need.

    manifest.json                       written last: what the version is, every other file's size and digest
    dense.safetensors                   the model's dense parameters
    optimizer.safetensors               their optimizer state
    items/shard-00000-of-00002.parquet  rows of the item table with their optimizer state and counts, per worker
    waiting/shard-00000-of-00002.parquet items seen too seldom to have a row, per worker (where there are any)
    history/partition-00000.parquet     users' histories per log partition (training from a log only)
    catalog.parquet                     the item catalog

No pickle anywhere. A directory without its manifest, or with a file that differs from it, is refused by name.
Writing: every worker writes its parts with a `VersionWriter`; when all have, one of them calls `seal`.
"""

from mind_dist.checkpoint.copying import copy_version
from mind_dist.checkpoint.manifest import DENSE, FORMAT_VERSION, MANIFEST, FileEntry, Manifest, WatchState, seal
from mind_dist.checkpoint.parts import UnsavedVersion, VersionParts
from mind_dist.checkpoint.rows import SightingCounts, TableRows
from mind_dist.checkpoint.version import ModelVersion, VersionWriter

__all__ = [
    "DENSE",
    "FORMAT_VERSION",
    "MANIFEST",
    "FileEntry",
    "Manifest",
    "ModelVersion",
    "SightingCounts",
    "TableRows",
    "UnsavedVersion",
    "VersionParts",
    "VersionWriter",
    "WatchState",
    "copy_version",
    "seal",
]
